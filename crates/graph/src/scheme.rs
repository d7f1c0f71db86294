//! Schemes: what a matrix product rounds activations and weights to.

use std::fmt;
use std::str::FromStr;

use crate::Activations;

/// What a matrix product rounds activations and weights to, by name. What each means to the bit says the CPU
/// backend's scalar tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Nothing is rounded.
    Float,
    /// Activations and weights are rounded to bf16.
    Bf16,
    /// Activations are int8 with a scale for each 32 columns; weights are as stored.
    Block,
    /// Activations and weights are int8 with a scale for each 256 columns.
    Panel,
    /// [`Scheme::Panel`] with activations in two parts: int8, and int8 of what that leaves.
    Fine,
    /// [`Scheme::Fine`] with weights in two parts as well.
    Finer,
}

impl Scheme {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Float, Self::Bf16, Self::Block, Self::Panel, Self::Fine, Self::Finer];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::Bf16 => "bf16",
            Self::Block => "block",
            Self::Panel => "panel",
            Self::Fine => "fine",
            Self::Finer => "finer",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scheme {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|scheme| scheme.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("no scheme '{name}', expected one of {names}")
        })
    }
}

/// How the products of a weight are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProductRule {
    /// As a mode has it, by codec and phase.
    Mode(Activations),
    /// By this scheme in both phases. ([`Scheme::Bf16`] is for rows of prompts; generated ones are then left in
    /// floats.)
    Scheme(Scheme),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_are_found_by_name() {
        for scheme in Scheme::ALL {
            assert_eq!(scheme.name().parse(), Ok(scheme));
        }
        let problem = "rough".parse::<Scheme>().unwrap_err();
        assert_eq!(
            problem,
            "no scheme 'rough', expected one of float, bf16, block, panel, fine, finer"
        );
    }
}
