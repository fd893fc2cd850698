//! Where a task's requests go, as far as its URL tells; and the names of the addresses there, asked once.

use super::address::refuse;
use crate::provider::wire::Endpoint;
use futures_util::future::BoxFuture;
use hyper::Uri;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Why a URL is refused, without the URL: its path and query may be secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    #[error("it is not http://HOST[:PORT]/PATH or https://…, without a user and password")]
    NotHttp,
    #[error("the host `{host}` is an address in a form that only some programs read")]
    StrangeAddress { host: String },
    #[error("the address {ip} is refused ({why}); `allow_private` allows it")]
    Refused { ip: IpAddr, why: &'static str },
}

/// A URL that was read.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) endpoint: Endpoint,
    /// Path and query.
    pub(super) path: String,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({}:{})", self.endpoint.host(), self.endpoint.port())
    }
}

impl Target {
    pub(super) fn parse(url: &str, allow_private: bool) -> Result<Target, BadUrl> {
        let uri: Uri = url.parse().map_err(|_| BadUrl::NotHttp)?;
        let endpoint = Endpoint::of(&uri).ok_or(BadUrl::NotHttp)?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let target = Target { endpoint, path };
        if !allow_private {
            target.check()?;
        }
        Ok(target)
    }

    /// The address that stands in the URL itself.
    pub(super) fn literal(&self) -> Option<IpAddr> {
        self.endpoint.bare_host().parse().ok()
    }

    fn check(&self) -> Result<(), BadUrl> {
        let host = self.endpoint.bare_host();
        if let Some(ip) = self.literal() {
            return refuse(ip).map_or(Ok(()), |why| Err(BadUrl::Refused { ip, why }));
        }
        let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if host.is_empty() || !host.chars().all(letters) || ends_in_a_number(host) {
            return Err(BadUrl::StrangeAddress { host: host.to_owned() });
        }
        Ok(())
    }
}

/// Whether resolvers may take a name for an address: `2130706433`, `0x7f.1`, `127.1`, `0177.0.0.1`.
fn ends_in_a_number(host: &str) -> bool {
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let hex = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let is_number = hex || (!last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()));
    is_number && host.parse::<Ipv4Addr>().is_err()
}

/// Turns names into addresses.
pub trait Resolve: Send + Sync + fmt::Debug {
    fn resolve(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;
}

/// The system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host.as_str(), port)).await?.collect()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s9_only_plain_urls_of_public_hosts_are_targets() {
        for good in [
            "https://example.com/hook",
            "http://example.com",
            "https://EXAMPLE.com:8443/hook?key=1#part",
            "https://a_b.example.com./",
            "https://1.2.3.4.example.com/",
            "http://8.8.8.8/",
            "https://[2606:4700:4700::1111]/",
        ] {
            assert!(Target::parse(good, false).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/hook",
            "example.com/hook",
            "ftp://example.com/",
            "file:///etc/passwd",
            "gopher://example.com/",
            "http://",
            "https:///hook",
            "https://user:password@example.com/",
            "https://user@example.com/",
            "https://exa mple.com/",
            "https://example.com\\@127.0.0.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0x7f.1/",
            "http://0X7F.0.0.0X1/",
            "http://017700000001/",
            "http://0177.0.0.1/",
            "http://127.1/",
            "http://127.0.1/",
            "http://127.0.0.1./",
            "http://256.256.256.256/",
            "http://0x/",
            "http://127.0.0.1/",
            "http://10.0.0.1:8080/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[fe80::1%25eth0]/",
            "http://%31%32%37.0.0.1/",
        ] {
            assert!(Target::parse(bad, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn private_targets_are_taken_where_they_are_allowed_and_others_not() {
        for good in ["http://127.0.0.1:8080/", "http://[::1]/", "http://2130706433/"] {
            assert!(Target::parse(good, true).is_ok(), "{good}");
        }
        for bad in ["ftp://example.com/", "http://user:password@127.0.0.1/"] {
            assert!(Target::parse(bad, true).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_target_keeps_its_query_and_never_shows_it() {
        let target = Target::parse("https://example.com/hook/canary?key=canary", false).expect("a target");
        assert_eq!(target.path, "/hook/canary?key=canary");
        assert!(!format!("{target:?}").contains("canary"));
    }
}
