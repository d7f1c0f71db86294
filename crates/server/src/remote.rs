//! Fetching what a stranger names: only from public addresses, little of it, and soon.
//!
//! One parser reads an address, the same that makes the connection. A host is resolved once for each
//! connection, what it resolves to is checked, and exactly that is connected to: also after a redirect,
//! which is a connection like any other. There is no proxy, no cookie, and no connection is kept.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use keeve_hub::tls;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Error};

/// The longest address taken, in bytes.
const LONGEST: usize = 2048;

/// Redirects that are followed.
const REDIRECTS: u32 = 3;

/// The longest that a fetch may take, redirects included.
const TIME: Duration = Duration::from_secs(20);

/// The most bytes of the head of a response.
const MAX_HEAD: usize = 16 << 10;

/// At most `most` bytes from an `http` or `https` address. Blocks.
///
/// # Errors
/// A sentence that says nothing of what was found at the address.
pub(crate) fn fetch(address: &str, most: usize) -> Result<Vec<u8>, &'static str> {
    fetch_from(address, most, |address| is_public(address.ip()))
}

/// The same from any address that `allowed` lets through.
fn fetch_from(
    address: &str,
    most: usize,
    allowed: fn(&SocketAddr) -> bool,
) -> Result<Vec<u8>, &'static str> {
    if address.len() > LONGEST {
        return Err("the address is too long");
    }
    let uri: Uri = address.parse().map_err(|_| "the address cannot be read")?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("the address is none of http or https");
    }
    if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
        return Err("the address has no host, or a user's name");
    }
    let config = Agent::config_builder()
        .proxy(None)
        .max_redirects(REDIRECTS)
        .max_redirects_will_error(true)
        .max_idle_connections(0)
        .max_response_header_size(MAX_HEAD)
        .timeout_global(Some(TIME))
        .tls_config(tls())
        .user_agent(concat!("keeve/", env!("CARGO_PKG_VERSION")))
        .accept("image/png, image/jpeg, image/webp")
        .build();
    let resolver = Checked { allowed, inner: DefaultResolver::default() };
    let agent = Agent::with_parts(config, DefaultConnector::default(), resolver);
    let mut response = agent.get(uri).call().map_err(|error| describe(&error))?;
    // The library takes a body that is as long as its limit for one that is longer.
    let body = response.body_mut().with_config().limit(most as u64 + 1);
    body.read_to_vec().map_err(|error| describe(&error))
}

/// Resolves to allowed addresses only.
#[derive(Debug)]
struct Checked {
    allowed: fn(&SocketAddr) -> bool,
    inner: DefaultResolver,
}

/// What the resolver's refusal is told from other errors by.
#[derive(Debug, thiserror::Error)]
#[error("not public")]
struct NotPublic;

impl Resolver for Checked {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let found = self.inner.resolve(uri, config, timeout)?;
        // One address that is not allowed makes the others suspect too.
        if found.iter().all(self.allowed) { Ok(found) } else { Err(Error::Other(NotPublic.into())) }
    }
}

fn describe(error: &Error) -> &'static str {
    match error {
        Error::Other(inner) if inner.is::<NotPublic>() => "the address is not a public one",
        Error::Timeout(_) => "it did not arrive in time",
        Error::BodyExceedsLimit(_) => "it is too large",
        Error::TooManyRedirects => "there are too many redirects",
        Error::StatusCode(_) => "the server there does not give it",
        _ => "it cannot be fetched",
    }
}

/// Whether an address belongs to the internet at large: IANA's "IPv4 Special-Purpose Address Registry"
/// and "IPv6 Special-Purpose Address Registry", and multicast.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => is_public_v4(address),
            None => is_public_v6(address),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    !matches!(
        address.octets(),
        [0 | 10 | 127 | 224..=255, ..]
            | [100, 64..=127, ..]
            | [169, 254, ..]
            | [172, 16..=31, ..]
            | [192, 168, ..]
            | [192, 0, 0 | 2, _]
            | [192, 31, 196, _]
            | [192, 52, 193, _]
            | [192, 88, 99, _]
            | [192, 175, 48, _]
            | [198, 18 | 19, ..]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
    )
}

/// Only 2000::/3 is given out; of it, tunnels, documentation and the block of protocols are not. That
/// leaves out everything that has an IPv4 address inside.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let special = match address.segments() {
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..] => {
            true
        }
        [first, ..] => first & 0xe000 != 0x2000,
    };
    !special
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for address in ["1.1.1.1", "8.8.8.8", "172.15.0.1", "100.63.0.1", "2606:4700::1111"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.0.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn addresses_of_this_machine_are_refused_however_they_are_written() {
        for address in [
            "http://127.0.0.1/a.png",
            "http://localhost:80/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0177.0.0.1/",
            "http://0/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:7f00:1]/",
            "https://10.0.0.1/",
            "http://169.254.169.254/latest/meta-data/",
            "http://192.168.0.1:8080/",
        ] {
            let problem = fetch(address, 10).unwrap_err();
            // Some resolvers do not know the odd forms at all.
            let expected = ["the address is not a public one", "it cannot be fetched"];
            assert!(expected.contains(&problem), "{address}: {problem}");
        }
        for address in [
            "",
            "a.png",
            "/etc/passwd",
            "file:///etc/passwd",
            "ftp://example.com/a",
            "gopher://example.com/",
            "http://",
            "http://user@1.1.1.1/",
            "http://1.1.1.1@127.0.0.1/",
            "http://1.1.1.1\\@127.0.0.1/",
            "http://a b/",
            "http://\u{0}/",
        ] {
            assert!(fetch(address, 10).is_err(), "{address:?}");
        }
        assert_eq!(
            fetch(&format!("http://a/{}", "a".repeat(3000)), 10).unwrap_err(),
            "the address is too long"
        );
    }

    /// Answers `count` connections and gives the port.
    fn answering(response: String, count: usize) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming().take(count) {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(response.as_bytes());
            }
        });
        port
    }

    #[test]
    fn each_redirect_is_checked_and_sizes_are_kept() {
        // Stands for what is public: this machine by one of its names.
        let by_number: fn(&SocketAddr) -> bool =
            |address| address.ip() == Ipv4Addr::new(127, 0, 0, 1);
        let body = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
        let port = answering(body.into(), 3);
        let address = format!("http://127.0.0.1:{port}/");
        assert_eq!(fetch_from(&address, 5, by_number), Ok(b"hello".to_vec()));
        assert_eq!(fetch_from(&address, 4, by_number), Err("it is too large"));
        let to = |target: &str| {
            format!(
                "HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
        };
        let allowed = answering(to(&address), 1);
        let found = fetch_from(&format!("http://127.0.0.1:{allowed}/"), 5, by_number);
        assert_eq!(found, Ok(b"hello".to_vec()));
        // Nothing listens there: it would be refused by the machine, if it were tried.
        let elsewhere = answering(to("http://127.0.0.2:1/"), 1);
        let found = fetch_from(&format!("http://127.0.0.1:{elsewhere}/"), 5, by_number);
        assert_eq!(found, Err("the address is not a public one"));
        let file = answering(to("file:///etc/passwd"), 1);
        assert!(fetch_from(&format!("http://127.0.0.1:{file}/"), 5, by_number).is_err());
        let endless = answering(to("/"), 10);
        let found = fetch_from(&format!("http://127.0.0.1:{endless}/"), 5, by_number);
        assert_eq!(found, Err("there are too many redirects"));
    }
}
