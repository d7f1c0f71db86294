//! What can be set during a conversation.

use keeve::SamplingParams;

/// How replies are made.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub sampling: SamplingParams,
    /// The most tokens of a reply.
    pub max_tokens: usize,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    Temp,
    TopP,
    TopK,
    MinP,
    MaxTokens,
    RepetitionPenalty,
    PresencePenalty,
    FrequencyPenalty,
}

impl Setting {
    pub const ALL: [Self; 8] = [
        Self::Temp,
        Self::TopP,
        Self::TopK,
        Self::MinP,
        Self::MaxTokens,
        Self::RepetitionPenalty,
        Self::PresencePenalty,
        Self::FrequencyPenalty,
    ];

    /// Its command, without the slash; the same as the flag.
    pub fn name(self) -> &'static str {
        match self {
            Self::Temp => "temp",
            Self::TopP => "top-p",
            Self::TopK => "top-k",
            Self::MinP => "min-p",
            Self::MaxTokens => "max-tokens",
            Self::RepetitionPenalty => "repetition-penalty",
            Self::PresencePenalty => "presence-penalty",
            Self::FrequencyPenalty => "frequency-penalty",
        }
    }
}

impl Settings {
    /// The value of a setting, as text.
    pub fn get(&self, setting: Setting) -> String {
        let sampling = &self.sampling;
        match setting {
            Setting::Temp => sampling.temperature.to_string(),
            Setting::TopP => sampling.top_p.to_string(),
            Setting::TopK => sampling.top_k.to_string(),
            Setting::MinP => sampling.min_p.to_string(),
            Setting::MaxTokens => self.max_tokens.to_string(),
            Setting::RepetitionPenalty => sampling.repetition_penalty.to_string(),
            Setting::PresencePenalty => sampling.presence_penalty.to_string(),
            Setting::FrequencyPenalty => sampling.frequency_penalty.to_string(),
        }
    }

    /// Sets a setting; if the value makes no sense, says why and leaves all as it is.
    pub fn set(&mut self, setting: Setting, text: &str) -> Result<(), String> {
        let mut new = self.clone();
        let float = || text.parse::<f32>().map_err(|_| format!("'{text}' is no number"));
        let whole = || text.parse::<usize>().map_err(|_| format!("'{text}' is no whole number"));
        let sampling = &mut new.sampling;
        match setting {
            Setting::Temp => sampling.temperature = float()?,
            Setting::TopP => sampling.top_p = float()?,
            Setting::TopK => sampling.top_k = whole()?,
            Setting::MinP => sampling.min_p = float()?,
            Setting::MaxTokens => new.max_tokens = whole()?,
            Setting::RepetitionPenalty => sampling.repetition_penalty = float()?,
            Setting::PresencePenalty => sampling.presence_penalty = float()?,
            Setting::FrequencyPenalty => sampling.frequency_penalty = float()?,
        }
        if new.max_tokens == 0 {
            return Err("max-tokens is 0, expected at least 1".into());
        }
        new.sampling.validate().map_err(|error| error.to_string())?;
        *self = new;
        Ok(())
    }

    /// All settings on one line.
    pub fn summary(&self) -> String {
        let one = |setting: Setting| format!("{} {}", setting.name(), self.get(setting));
        Setting::ALL.map(one).join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_set_or_left_as_they_are() {
        let mut settings = Settings { sampling: SamplingParams::default(), max_tokens: 5 };
        for (setting, value) in
            Setting::ALL.into_iter().zip(["0.5", "0.9", "40", "0.1", "7", "1.5", "-1", "2"])
        {
            settings.set(setting, value).unwrap();
            assert_eq!(settings.get(setting), value);
        }
        let before = settings.clone();
        for (setting, value) in [
            (Setting::Temp, "3"),
            (Setting::Temp, "NaN"),
            (Setting::Temp, ""),
            (Setting::TopP, "0"),
            (Setting::TopK, "-1"),
            (Setting::TopK, "1.5"),
            (Setting::MaxTokens, "0"),
            (Setting::RepetitionPenalty, "x"),
            (Setting::FrequencyPenalty, "inf"),
        ] {
            assert!(settings.set(setting, value).is_err(), "{setting:?} {value}");
            assert_eq!(settings, before);
        }
        assert!(settings.summary().contains("top-k 40, min-p 0.1"));
    }
}
