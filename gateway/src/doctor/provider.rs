//! Providers: whether each has a key and a base URL that can be used, and whether it accepts the key.

use super::Check;
use crate::cli::Common;
use crate::config::{Config, ProviderConfig};
use crate::providers::{Choice, connect};
use actors::provider::request::batch_of_key;
use actors::provider::{CallError, Listed, Protocol, Provider};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use storage::model::{Clock, SystemClock, Timestamp};
use storage::store::Doubted;

const ANSWER_WITHIN: Duration = Duration::from_secs(20);
const TOLERATED_SKEW_SECONDS: u64 = 60;

/// What to ask each provider with.
pub struct Ask<'a> {
    pub online: bool,
    pub common: &'a Common,
    pub config: &'a Config,
    pub doubted: Option<&'a Doubted>,
}

impl Ask<'_> {
    pub async fn checks(&self) -> Vec<Check> {
        let config = self.config;
        let set = |name: &str| std::env::var(name).is_ok_and(|value| !value.trim().is_empty());
        let mut names: BTreeSet<&str> =
            config.providers.keys().map(String::as_str).filter(|name| *name != "sim").collect();
        names.extend(
            [Protocol::OpenAi, Protocol::Anthropic]
                .map(vendor)
                .into_iter()
                .filter_map(|(name, key, _)| set(key).then_some(name)),
        );
        if names.is_empty() {
            let what = "none is configured and no key is set: the simulated one is used";
            return vec![Check::ok("providers", what)];
        }
        let mut checks = Vec::new();
        for name in names {
            let own = config.providers.get(name).cloned().unwrap_or_default();
            checks.extend(self.one(name, &own).await);
        }
        checks
    }

    async fn one(&self, name: &str, own: &ProviderConfig) -> Vec<Check> {
        let label = format!("provider {name}");
        let protocol = match (name, own.protocol.as_deref()) {
            ("openai", _) | (_, Some("openai")) => Protocol::OpenAi,
            ("anthropic", _) | (_, Some("anthropic")) => Protocol::Anthropic,
            _ => {
                let what = format!("providers.{name} does not say which protocol it speaks");
                return vec![Check::fail(label, what, "add protocol = \"openai\" or \"anthropic\"")];
            }
        };
        let mut checks = Vec::new();
        checks.extend(own.api_key_file.as_deref().and_then(|path| key_file(&label, path)));
        if let Some((from, url)) = stated_base(name, own, protocol) {
            // The usual message would show the URL, and with it the password.
            if url.contains('@') {
                let what = format!("{from} holds a user or password");
                checks.push(Check::fail(label, what, "leave it out; the key goes into a header"));
                return checks;
            }
            checks.extend(base(&label, &from, &url, protocol));
        }
        let choice = Choice { name: name.to_owned(), protocol, note: None };
        match connect(&choice, self.common, self.config) {
            Err(failure) => checks.push(Check::failed(label, failure, "mend it in the configuration")),
            Ok(chosen) => {
                let key = match &own.api_key_file {
                    Some(path) => path.display().to_string(),
                    None => vendor(protocol).1.to_owned(),
                };
                checks.push(Check::ok(label.clone(), format!("key from {key}, account {}", chosen.account)));
                if self.online {
                    checks.extend(accepts(&label, &*chosen.client).await);
                    if let Some(doubted) = self.doubted {
                        checks.extend(forgotten(&label, &*chosen.client, doubted).await);
                    }
                }
            }
        }
        checks
    }
}

/// A vendor's name, and the variables that hold its key and its base URL.
fn vendor(protocol: Protocol) -> (&'static str, &'static str, &'static str) {
    match protocol {
        Protocol::OpenAi => ("openai", "OPENAI_API_KEY", "OPENAI_BASE_URL"),
        Protocol::Anthropic => ("anthropic", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"),
    }
}

/// Where the base URL is stated, and what it is; `None` for the vendor's own.
fn stated_base(name: &str, own: &ProviderConfig, protocol: Protocol) -> Option<(String, String)> {
    if let Some(base) = &own.base_url {
        return Some((format!("providers.{name}.base_url"), base.clone()));
    }
    let (vendor, _, variable) = vendor(protocol);
    let value = std::env::var(variable).ok().filter(|value| !value.trim().is_empty() && name == vendor)?;
    Some((variable.to_owned(), value))
}

fn base(label: &str, from: &str, url: &str, protocol: Protocol) -> Vec<Check> {
    let mut checks = Vec::new();
    let versioned = url.trim_end_matches('/').ends_with("/v1");
    if protocol == Protocol::Anthropic && versioned {
        let what = format!("{from} ends with /v1, which is added by itself");
        checks.push(Check::warn(label, what, "leave /v1 out of an Anthropic base URL"));
    }
    let local = ["http://127.", "http://localhost", "http://[::1]"].iter().any(|prefix| url.starts_with(prefix));
    if url.starts_with("http://") && !local {
        let what = format!("{from} is http: the key travels unencrypted");
        checks.push(Check::warn(label, what, "use https unless the network is your own"));
    }
    checks
}

/// What is wrong with a key's file. The key itself is looked at for emptiness only.
fn key_file(label: &str, path: &Path) -> Option<Check> {
    let shown = path.display();
    let mode = match std::fs::metadata(path) {
        Ok(metadata) => metadata.permissions().mode(),
        // Not readable: that is said by the attempt to use it.
        Err(_) => return None,
    };
    if std::fs::read_to_string(path).is_ok_and(|key| key.trim().is_empty()) {
        return Some(Check::fail(label, format!("{shown} is empty"), "put the key into it, and nothing else"));
    }
    let everybody = mode & 0o004 != 0;
    everybody.then(|| {
        let what = format!("{shown} is readable by every user of this machine");
        Check::warn(label, what, format!("chmod o-rwx {shown}"))
    })
}

/// One list call: the cheapest that needs a valid key. Its answer carries the date.
async fn accepts(label: &str, client: &dyn Provider) -> Vec<Check> {
    let asked = SystemClock.now();
    match tokio::time::timeout(ANSWER_WITHIN, client.told_time()).await {
        Ok(Ok(told)) => {
            let clock = told.map(|told| skew(label, told, asked, SystemClock.now()));
            [Some(Check::ok(label, "accepts the key")), clock].into_iter().flatten().collect()
        }
        Ok(Err(error)) => vec![refused(label, &error)],
        Err(_) => {
            let what = format!("unreachable: no answer within {} s", ANSWER_WITHIN.as_secs());
            vec![Check::fail(label, what, "check the network and the base URL")]
        }
    }
}

/// Listings are searched by the provider's time, with minutes of grace; its date is of a whole second.
fn skew(label: &str, told: Timestamp, asked: Timestamp, heard: Timestamp) -> Check {
    let behind = asked.since(told).as_secs().saturating_sub(1);
    let ahead = told.since(heard).as_secs();
    let what = format!("its clock is {} s from this machine's", behind.max(ahead));
    if behind.max(ahead) <= TOLERATED_SKEW_SECONDS {
        return Check::ok(label, what);
    }
    Check::warn(label, what, "let NTP set this machine's clock: batches are looked for by time")
}

/// What was bought from the original of this store since, as far as the provider shows whose its batches are.
async fn forgotten(label: &str, client: &dyn Provider, doubted: &Doubted) -> Option<Check> {
    let listed = tokio::time::timeout(ANSWER_WITHIN, client.list(doubted.since)).await.ok()?.ok()?;
    Some(strangers(label, &listed, doubted))
}

/// A batch that was planned here carries a key of ours where there are keys: it will be adopted.
fn strangers(label: &str, listed: &[Listed], doubted: &Doubted) -> Check {
    let is_ours = |batch: &Listed| batch.key.as_deref().is_some_and(|key| doubted.keys.contains(batch_of_key(key)));
    let strange: Vec<_> = listed.iter().filter(|batch| !doubted.ids.contains(&batch.id) && !is_ours(batch)).collect();
    let Some(first) = strange.last() else {
        return Check::ok(label, format!("has no batch since {} that this store does not know", doubted.since));
    };
    let what =
        format!("{} batches since {} that this store does not know, from {}", strange.len(), doubted.since, first.id);
    let fix =
        "what was planned here is adopted by itself; for all others see ops/runbooks/restore.md before jobs go on";
    Check::warn(label, what, fix)
}

fn refused(label: &str, error: &CallError) -> Check {
    match error.status() {
        Some(401 | 403) => {
            Check::fail(label, format!("does not accept the key: {error}"), "set a key that is valid for this base URL")
        }
        Some(408 | 429 | 500..) => Check::warn(label, format!("reachable, but busy: {error}"), "try again later"),
        Some(_) => Check::fail(label, format!("not a batch API: {error}"), "check the base URL and its protocol"),
        None => Check::fail(label, format!("unreachable: {error}"), "check the network and the base URL"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use storage::store::Doubt;

    fn answered(status: u16) -> CallError {
        CallError::Status { host: "h".into(), status, code: None, message: "m".into(), retry_after: None }
    }

    #[test]
    fn a_refused_key_a_busy_provider_and_a_wrong_url_are_told_apart() {
        for (status, verdict, says) in [
            (401, Verdict::Fail, "does not accept the key"),
            (403, Verdict::Fail, "does not accept the key"),
            (404, Verdict::Fail, "not a batch API"),
            (429, Verdict::Warn, "reachable, but busy"),
            (529, Verdict::Warn, "reachable, but busy"),
        ] {
            let check = refused("p", &answered(status));
            assert_eq!(check.verdict, verdict, "{status}");
            assert!(check.what.starts_with(says), "{}", check.what);
        }
        let timeout = CallError::Timeout { host: "h".into(), within: Duration::from_secs(1) };
        assert!(refused("p", &timeout).what.starts_with("unreachable"));
    }

    #[test]
    fn what_a_copy_has_forgotten_is_told_from_what_it_will_adopt() {
        let at = Timestamp::from_millis(0);
        let batch = |id: &str, key: Option<&str>| Listed {
            id: id.into(),
            created_at: at,
            input_file_id: None,
            key: key.map(str::to_owned),
            requests: Some(1),
            ended: false,
            results_ref: None,
        };
        let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let doubted = Doubted { doubt: Doubt::Elsewhere, since: at, keys: set(&["01a"]), ids: set(&["known"]) };
        let mine = [batch("known", None), batch("planned", Some("01a-2"))];
        assert_eq!(strangers("p", &mine, &doubted).verdict, Verdict::Ok);
        let more = [batch("newest", Some("01b-1")), mine[0].clone(), batch("oldest", None)];
        let check = strangers("p", &more, &doubted);
        assert_eq!(check.verdict, Verdict::Warn);
        assert!(check.what.starts_with("2 batches") && check.what.ends_with("from oldest"), "{}", check.what);
    }

    #[test]
    fn a_clock_that_is_far_from_the_providers_deserves_a_look() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1_000);
        for (told, verdict) in [
            (at(1_000), Verdict::Ok),
            (at(939), Verdict::Ok),
            (at(938), Verdict::Warn),
            (at(1_062), Verdict::Ok),
            (at(1_063), Verdict::Warn),
        ] {
            assert_eq!(skew("p", told, at(1_000), at(1_002)).verdict, verdict, "{told}");
        }
    }

    #[test]
    fn base_urls_that_send_the_key_in_clear_or_double_the_version_deserve_a_look() {
        let looks = |url, protocol| base("p", "base_url", url, protocol).len();
        assert_eq!(looks("https://api.example.com/v1", Protocol::OpenAi), 0);
        assert_eq!(looks("http://127.0.0.1:7080/v1/", Protocol::OpenAi), 0);
        assert_eq!(looks("http://10.0.0.7/v1", Protocol::OpenAi), 1);
        assert_eq!(looks("https://api.example.com/v1/", Protocol::Anthropic), 1);
        assert_eq!(looks("http://10.0.0.7/v1", Protocol::Anthropic), 2);
    }
}
