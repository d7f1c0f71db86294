//! Where an address leads: its origin (RFC 6454), and what a redirect makes of it.

use ureq::http::Uri;

/// Scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// The origin of an `http:` or `https:` address; `None` for any other.
    pub fn of(address: &str) -> Option<Self> {
        let address: Uri = address.parse().ok()?;
        let scheme = address.scheme_str()?.to_ascii_lowercase();
        let usual = match &*scheme {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        let host = address.host()?.to_ascii_lowercase();
        Some(Self { scheme, host, port: address.port_u16().unwrap_or(usual) })
    }
}

/// Where `location` leads from `from` (RFC 9110, 10.2.2); `None` if that is no address, or one that gives
/// up encryption.
pub(crate) fn followed(from: &str, location: &str) -> Option<String> {
    let base = Origin::of(from)?;
    let root_at = from.find("://")? + 3;
    let root = from[root_at..].find(['/', '?', '#']).map_or(from, |at| &from[..root_at + at]);
    let lower = location.to_ascii_lowercase();
    let next = if lower.starts_with("http://") || lower.starts_with("https://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{}:{location}", base.scheme)
    } else if location.starts_with('/') {
        format!("{root}{location}")
    } else if location.is_empty() || location.split(['/', '?']).next()?.contains(':') {
        return None;
    } else {
        let path = from[root.len()..].split(['?', '#']).next().unwrap_or_default();
        let folder = path.rfind('/').map_or("/", |at| &path[..=at]);
        format!("{root}{folder}{location}")
    };
    let next = next.split('#').next().unwrap_or_default().to_owned();
    let origin = Origin::of(&next)?;
    (base.scheme == "http" || origin.scheme == "https").then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| Origin::of(a).is_some() && Origin::of(a) == Origin::of(b);
        assert!(same("https://hub.example/a", "HTTPS://HUB.example:443/b?c#d"));
        assert!(same("http://127.0.0.1:80", "http://127.0.0.1/"));
        for other in [
            "http://hub.example/a",
            "https://hub.example:444/a",
            "https://hub.example.evil/a",
            "https://evil@hub.example.evil/",
            "https://hub.example@evil.example/",
            "ftp://hub.example/",
            "hub.example",
            "",
        ] {
            assert!(!same("https://hub.example/a", other), "{other}");
        }
    }

    #[test]
    fn redirects_lead_where_they_say() {
        let from = "https://hub.example/a/b?c";
        for (location, next) in [
            ("https://other.example/x", Some("https://other.example/x")),
            ("//other.example/x", Some("https://other.example/x")),
            ("/x/y?z", Some("https://hub.example/x/y?z")),
            ("x", Some("https://hub.example/a/x")),
            ("x#y", Some("https://hub.example/a/x")),
            ("http://hub.example/x", None),
            ("file:///etc/passwd", None),
            ("ftp://hub.example/", None),
            ("", None),
        ] {
            assert_eq!(followed(from, location).as_deref(), next, "{location}");
        }
        assert_eq!(followed("http://a.example", "x").as_deref(), Some("http://a.example/x"));
        assert_eq!(followed("http://a:8", "https://b/").as_deref(), Some("https://b/"));
    }
}
