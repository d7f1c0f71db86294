//! Formats of strings that are enforced, each by the grammar of the document that the standard names.
//! Any other `format` is an annotation, as the standard has it.

/// The expression of a format.
pub(super) fn expression(name: &str) -> Option<String> {
    let octet = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
    let v4 = format!(r"(?:{octet}\.){{3}}{octet}");
    Some(match name {
        "date-time" => format!("^{}[Tt]{}$", date(), time()),
        "date" => format!("^{}$", date()),
        "time" => format!("^{}$", time()),
        "duration" => {
            // RFC 3339, appendix A.
            let time = "T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)";
            let date = "(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)";
            format!("^P(?:{date}(?:{time})?|{time}|[0-9]+W)$")
        }
        // RFC 5321, Mailbox; without quotes, comments and addresses in brackets.
        "email" => {
            let atom = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+";
            format!(r"^{atom}(?:\.{atom})*@{}$", hostname())
        }
        "hostname" => format!("^(?=.{{1,253}}$){}$", hostname()),
        "ipv4" => format!("^{v4}$"),
        "ipv6" => format!("^{}$", v6(&v4)),
        "uuid" => "^[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$".into(),
        "uri" => uri(&v4),
        _ => return None,
    })
}

/// RFC 3339, full-date; February has 29 days in leap years.
fn date() -> String {
    let leap = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)";
    let long = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])";
    let short = "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)";
    let february = "02-(?:0[1-9]|1[0-9]|2[0-8])";
    format!("(?:[0-9]{{4}}-(?:{long}|{short}|{february})|{leap}-02-29)")
}

/// RFC 3339, full-time, without leap seconds.
fn time() -> String {
    let clock = "(?:[01][0-9]|2[0-3]):[0-5][0-9]";
    format!(r"{clock}:[0-5][0-9](?:\.[0-9]+)?(?:[Zz]|[+-]{clock})")
}

/// RFC 1123; no label has hyphens in its third and fourth place, which are kept for other scripts.
fn hostname() -> String {
    let (end, any) = ("[A-Za-z0-9]", "[A-Za-z0-9-]");
    let label = format!(
        "(?:{end}{{1,2}}|{end}{any}{end}|{end}{any}{end}{any}{{0,59}}{end}|{end}{any}-{end}(?:{any}{{0,58}}{end})?)"
    );
    format!(r"{label}(?:\.{label})*")
}

/// RFC 4291, section 2.2.
fn v6(v4: &str) -> String {
    let group = "[0-9a-fA-F]{1,4}";
    let last = format!("(?:{group}:{group}|{v4})");
    let mut ways = vec![format!("(?:{group}:){{6}}{last}")];
    for after in (0..=5).rev() {
        let before = 5 - after;
        let head = match before {
            0 => String::new(),
            more => format!("(?:(?:{group}:){{0,{}}}{group})?", more - 1),
        };
        ways.push(format!("{head}::(?:{group}:){{{after}}}{last}"));
    }
    ways.push(format!("(?:(?:{group}:){{0,5}}{group})?::{group}"));
    ways.push(format!("(?:(?:{group}:){{0,6}}{group})?::"));
    format!("(?:{})", ways.join("|"))
}

/// RFC 3986, section 3.
fn uri(v4: &str) -> String {
    let escaped = "%[0-9a-fA-F]{2}";
    let plain = r"A-Za-z0-9._~!$&'()*+,;=\-";
    let part = format!("(?:[{plain}:@]|{escaped})");
    let user = format!("(?:(?:[{plain}:]|{escaped})*@)?");
    let host =
        format!(r"(?:\[(?:{}|[vV][0-9a-fA-F]+\.[{plain}:]+)\]|(?:[{plain}]|{escaped})*)", v6(v4));
    let path = format!("(?:/{part}*)*");
    let hierarchy =
        format!("(?://{user}{host}(?::[0-9]*)?{path}|/(?:{part}+{path})?|{part}+{path}|)");
    let rest = format!("(?:[{plain}:@/?]|{escaped})*");
    format!(r"^[A-Za-z][A-Za-z0-9+.-]*:{hierarchy}(?:\?{rest})?(?:#{rest})?$")
}

#[cfg(test)]
mod tests {
    use super::super::pattern::Pattern;
    use super::*;

    #[test]
    fn formats_take_what_their_documents_say() {
        for (name, good, bad) in [
            (
                "date-time",
                vec!["1963-06-19T08:30:06.283185Z", "1937-01-01t12:00:27.87+00:20"],
                vec!["1963-06-19 08:30:06Z", "2021-02-29T00:00:00Z", "1990-02-31T15:59:59Z"],
            ),
            (
                "date",
                vec!["2020-02-29", "2000-02-29", "2021-12-31"],
                vec!["2021-02-29", "1900-02-29", "2020-13-01", "20-01-01", "2020-01-01T"],
            ),
            (
                "time",
                vec!["08:30:06Z", "23:59:59.5+01:30"],
                vec!["24:00:00Z", "08:30:06", "08:30Z"],
            ),
            (
                "duration",
                vec!["P4DT12H30M5S", "P2W", "PT36H", "P1Y2M3D"],
                vec!["P", "PT", "P1", "P2D1Y", "4DT", "P1YT"],
            ),
            (
                "email",
                vec!["joe.bloggs@example.com", "te~st@example.com"],
                vec!["2962", ".test@example.com", "te..st@example.com", "a@-b"],
            ),
            (
                "hostname",
                vec!["www.example.com", "a", "a-b.c1"],
                vec!["-a", "a-", "a..b", "", "a_b", "ab--c"],
            ),
            (
                "ipv4",
                vec!["192.168.0.1", "0.0.0.0", "255.255.255.255"],
                vec!["256.0.0.1", "1.2.3", "01.2.3.4"],
            ),
            (
                "ipv6",
                vec![
                    "::1",
                    "::",
                    "1:2:3:4:5:6:7:8",
                    "::ffff:192.168.0.1",
                    "1::d6:192.168.0.1",
                    "1:2:3:4:5:6:7::",
                    "::2:3:4:5:6:7:8",
                ],
                vec![
                    "12345::",
                    "1:2:3:4:5:6:7",
                    "1::2::3",
                    "1:2:3:4:5:6:7:8:9",
                    "1:2:3:4:5:::8",
                    "::1%eth0",
                ],
            ),
            (
                "uuid",
                vec!["2eb8aa08-aa98-11ea-b4aa-73b441d16380"],
                vec!["2eb8aa08aa9811eab4aa73b441d16380"],
            ),
            (
                "uri",
                vec![
                    "http://foo.bar/?baz=qux#quux",
                    "urn:oasis:names",
                    "mailto:a@b.c",
                    "http://[::1]:80/",
                    "ldap://[2001:db8::7]/c=GB?objectClass?one",
                ],
                vec![
                    "//foo.bar",
                    "/abs",
                    "\\\\WINDOWS",
                    "http:// a",
                    "bar,baz:x\"",
                    "http://[bad]",
                ],
            ),
        ] {
            let pattern = Pattern::new(&expression(name).unwrap()).unwrap();
            good.iter().for_each(|text| assert!(pattern.is_match(text), "{name}: {text}"));
            bad.iter().for_each(|text| assert!(!pattern.is_match(text), "{name}: {text}"));
        }
        assert!(expression("made-up").is_none());
    }
}
