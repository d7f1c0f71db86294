//! `strftime_now`: the time as Python's `strftime` writes it in the C locale.

use jiff::civil::DateTime;

/// Longest format and longest padding.
const MAX_FORMAT: usize = 4096;
const MAX_WIDTH: usize = 64;

/// `now`, or the local time of this machine, as `format` asks for it. The time has no zone, so `%z` and `%Z`
/// are empty; what is no directive stays as it is.
pub(crate) fn strftime(now: Option<DateTime>, format: &str) -> Result<String, String> {
    if format.len() > MAX_FORMAT {
        return Err(format!("a format has {} bytes, expected at most {MAX_FORMAT}", format.len()));
    }
    let now = now.unwrap_or_else(|| jiff::Zoned::now().datetime());
    let mut made = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        made.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let kind = after.find(|c: char| !"-_0^#".contains(c) && !c.is_ascii_digit());
        let Some((end, kind)) = kind.and_then(|at| Some((at, after[at..].chars().next()?))) else {
            made.push_str(&rest[at..]);
            return Ok(made);
        };
        let flags = &after[..end];
        made.push_str(&directive(now, flags, kind));
        rest = &after[end + kind.len_utf8()..];
    }
    made.push_str(rest);
    Ok(made)
}

fn directive(now: DateTime, flags: &str, kind: char) -> String {
    let part = |format: &str| jiff::fmt::strtime::format(format, now);
    let width = flags.trim_start_matches(['-', '_', '^', '#', '0']).parse::<usize>();
    if width.is_ok_and(|width| width > MAX_WIDTH) {
        return format!("%{flags}{kind}");
    }
    let made = match kind {
        'c' => part("%a %b %e %H:%M:%S %Y"),
        'x' | 'D' => part("%m/%d/%y"),
        'X' | 'T' => part("%H:%M:%S"),
        'r' => part("%I:%M:%S %p"),
        'z' | 'Z' => return String::new(),
        'f' => return format!("{:06}", now.subsec_nanosecond() / 1000),
        _ => part(&format!("%{flags}{kind}")),
    };
    made.unwrap_or_else(|_| format!("%{flags}{kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_pythons() {
        // datetime(2026, 3, 7, 9, 5, 2, 123456).strftime(..) in the C locale.
        let now = jiff::civil::date(2026, 3, 7).at(9, 5, 2, 123_456_000);
        let cases = [
            ("%x|%c|%X", "03/07/26|Sat Mar  7 09:05:02 2026|09:05:02"),
            ("%U|%W|%w|%u|%G|%V|%j", "09|09|6|6|2026|10|066"),
            ("%Z|%z|%f|%d|%-d|%e|%m|%-m", "||123456|07|7| 7|03|3"),
            ("%D|%T|%R|%h|%b|%B|%a|%A", "03/07/26|09:05:02|09:05|Mar|Mar|March|Sat|Saturday"),
            ("%I|%-I|%l|%k|%H|%M|%S|%p|%P", "09|9| 9| 9|09|05|02|AM|am"),
            ("%y|%C|%Y|%F|%%|%n|%t|", "26|20|2026|2026-03-07|%|\n|\t|"),
            ("no directive, % and %", "no directive, % and %"),
        ];
        for (format, expected) in cases {
            assert_eq!(strftime(Some(now), format).unwrap(), expected, "{format}");
        }
        assert!(strftime(Some(now), &"%Y".repeat(5000)).is_err());
    }
}
