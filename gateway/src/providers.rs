//! Finds the provider that a command means, and how to reach it.

use crate::cli::Common;
use crate::config::{Config, Policy, ProviderConfig};
use crate::exit::{Exit, Failure};
use crate::input::Form;
use crate::session::store_url;
use crate::sim::{Faults, Sim, SimConfig};
use actors::config::Following;
use actors::provider::anthropic::{Anthropic, DEFAULT_VERSION};
use actors::provider::openai::OpenAi;
use actors::provider::{Protocol, Provider};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The provider that carries a job out.
pub struct Chosen {
    pub name: String,
    pub account: String,
    pub client: Arc<dyn Provider>,
    pub following: Following,
    /// The simulated provider, while it runs inside this process.
    pub sim: Option<Sim>,
}

/// Which provider, before any connection is made.
#[derive(Debug, Clone)]
pub struct Choice {
    pub name: String,
    pub protocol: Protocol,
    /// Why this one, when nobody named it.
    pub note: Option<String>,
}

fn protocol_of(form: Form) -> Protocol {
    match form {
        Form::OpenAi => Protocol::OpenAi,
        Form::Anthropic => Protocol::Anthropic,
    }
}

/// The named provider, or the vendor of the file's form if its key is set, else the simulated one.
pub fn choose(named: Option<&str>, form: Form, config: &Config) -> Result<Choice, Failure> {
    let wanted = protocol_of(form);
    let vendor = match wanted {
        Protocol::OpenAi => "openai",
        Protocol::Anthropic => "anthropic",
    };
    let Some(name) = named else {
        let own = config.providers.get(vendor).cloned().unwrap_or_default();
        let key_is_set = own.api_key_file.is_some() || is_set(key_variable(wanted));
        let (name, note) = if key_is_set {
            (vendor, format!("provider {vendor}, by the file's form and {}", key_variable(wanted)))
        } else {
            let set = format!("set {} or use --provider to buy from {vendor}", key_variable(wanted));
            ("sim", format!("no key is set: using the simulated provider ({set})"))
        };
        return Ok(Choice { name: name.to_owned(), protocol: wanted, note: Some(note) });
    };
    let protocol = match name {
        "sim" => wanted,
        "openai" => Protocol::OpenAi,
        "anthropic" => Protocol::Anthropic,
        other => match config.providers.get(other).map(|provider| provider.protocol.as_deref()) {
            Some(Some("anthropic")) => Protocol::Anthropic,
            Some(Some(_)) => Protocol::OpenAi,
            Some(None) => {
                return Err(Failure::usage(format!("providers.{other} needs `protocol`: openai or anthropic")));
            }
            None => {
                let failure = Failure::usage(format!("there is no provider `{other}`"));
                return Err(
                    failure.hint("use openai, anthropic or sim, or add a [providers.NAME] to the configuration")
                );
            }
        },
    };
    if protocol != wanted {
        let failure =
            Failure::usage(format!("the file is in {vendor} form, which the provider `{name}` does not take"));
        return Err(failure.hint("use the provider of the file's form, or convert the file"));
    }
    Ok(Choice { name: name.to_owned(), protocol, note: None })
}

/// Makes the client; starts the simulated provider if that is the one.
pub fn connect(choice: &Choice, common: &Common, config: &Config) -> Result<Chosen, Failure> {
    if choice.name == "sim" {
        return connect_sim(choice, common, config);
    }
    let own = config.providers.get(&choice.name).cloned().unwrap_or_default();
    let base = base_url(choice, &own)?;
    let key = api_key(choice, &own)?;
    let client = client(choice.protocol, &base, &key, own.version.as_deref())?;
    let account = own.account.clone().unwrap_or_else(|| fingerprint(&choice.name, &base, &key));
    Ok(Chosen {
        name: choice.name.clone(),
        account,
        client,
        following: following(choice.protocol, &own, Duration::from_secs(30)),
        sim: None,
    })
}

/// The providers that the configuration names and has a key for.
#[derive(Default)]
pub struct Configured {
    /// By account, as are the ways in which each is followed.
    pub clients: HashMap<String, Arc<dyn Provider>>,
    pub followings: HashMap<String, Following>,
    /// By name.
    pub accounts: HashMap<String, (String, Protocol)>,
}

pub fn configured(config: &Config) -> Result<Configured, Failure> {
    let mut found = Configured::default();
    for (name, own) in &config.providers {
        let protocol = match (own.protocol.as_deref(), name.as_str()) {
            (Some("anthropic"), _) | (None, "anthropic") => Protocol::Anthropic,
            (Some(_), _) | (None, "openai") => Protocol::OpenAi,
            (None, _) => continue,
        };
        let choice = Choice { name: name.clone(), protocol, note: None };
        if own.api_key_file.is_none() && !(is_vendor(&choice) && is_set(key_variable(protocol))) {
            continue;
        }
        let (base, key) = (base_url(&choice, own)?, api_key(&choice, own)?);
        let account = own.account.clone().unwrap_or_else(|| fingerprint(name, &base, &key));
        found.followings.insert(account.clone(), following(protocol, own, Duration::from_secs(30)));
        found.clients.insert(account.clone(), client(protocol, &base, &key, own.version.as_deref())?);
        found.accounts.insert(name.clone(), (account, protocol));
    }
    Ok(found)
}

fn connect_sim(choice: &Choice, common: &Common, config: &Config) -> Result<Chosen, Failure> {
    let cannot = |error: crate::sim::SimError| {
        Failure::new(Exit::Unexpected, format!("cannot start the simulated provider: {error}"))
    };
    let mut faults = Faults::default();
    for fault in &config.sim.faults {
        faults.set(fault).map_err(|error| Failure::usage(format!("sim.faults: {error}")))?;
    }
    let latency = Duration::from_secs_f64(config.sim.latency_seconds);
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let sim = Sim::start(SimConfig { dir: sim_folder(common)?, latency, faults }, listen).map_err(cannot)?;
    let base = match choice.protocol {
        Protocol::OpenAi => format!("http://{}/v1", sim.addr()),
        Protocol::Anthropic => format!("http://{}", sim.addr()),
    };
    let own = config.providers.get("sim").cloned().unwrap_or_default();
    Ok(Chosen {
        name: "sim".to_owned(),
        account: "sim".to_owned(),
        client: client(choice.protocol, &base, "simulated", own.version.as_deref())?,
        following: following(choice.protocol, &own, Duration::from_millis(250)),
        sim: Some(sim),
    })
}

/// The simulated provider's state lies next to the store that it is used with.
pub fn sim_folder(common: &Common) -> Result<PathBuf, Failure> {
    let url = store_url(common)?;
    if let Some(path) = url.strip_prefix("sqlite:") {
        return Ok(PathBuf::from(format!("{}.sim", path.strip_prefix("//").unwrap_or(path))));
    }
    let beside = store_url(&Common { store: None, store_file: None, ..common.clone() })?;
    let digest = short_digest(&[&url]);
    Ok(PathBuf::from(format!("{}-{digest}.sim", beside.trim_start_matches("sqlite:"))))
}

fn client(protocol: Protocol, base: &str, key: &str, version: Option<&str>) -> Result<Arc<dyn Provider>, Failure> {
    let client: Arc<dyn Provider> = match protocol {
        Protocol::OpenAi => Arc::new(OpenAi::new(base, key).map_err(Failure::usage)?),
        Protocol::Anthropic => {
            Arc::new(Anthropic::new(base, key, version.unwrap_or(DEFAULT_VERSION)).map_err(Failure::usage)?)
        }
    };
    Ok(client)
}

fn key_variable(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::OpenAi => "OPENAI_API_KEY",
        Protocol::Anthropic => "ANTHROPIC_API_KEY",
    }
}

/// An environment variable that is set to something; an empty one counts as unset.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// Whether a variable holds anything at all, also what no key can be: whoever has set one means to buy.
fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.to_string_lossy().trim().is_empty())
}

fn is_vendor(choice: &Choice) -> bool {
    ["openai", "anthropic"].contains(&choice.name.as_str())
}

fn base_url(choice: &Choice, own: &ProviderConfig) -> Result<String, Failure> {
    if let Some(base) = &own.base_url {
        return Ok(base.clone());
    }
    if !is_vendor(choice) {
        return Err(Failure::usage(format!("providers.{} needs `base_url`", choice.name)));
    }
    let (name, default) = match choice.protocol {
        Protocol::OpenAi => ("OPENAI_BASE_URL", "https://api.openai.com/v1"),
        Protocol::Anthropic => ("ANTHROPIC_BASE_URL", "https://api.anthropic.com"),
    };
    Ok(variable(name).unwrap_or_else(|| default.to_owned()))
}

fn api_key(choice: &Choice, own: &ProviderConfig) -> Result<String, Failure> {
    if let Some(path) = &own.api_key_file {
        let cannot = |why: std::io::Error| {
            Failure::usage(format!("cannot read providers.{}.api_key_file {}: {why}", choice.name, path.display()))
        };
        return Ok(std::fs::read_to_string(path).map_err(cannot)?.trim().to_owned());
    }
    let name = key_variable(choice.protocol);
    let key = variable(name).filter(|_| is_vendor(choice));
    key.map(|key| key.trim().to_owned()).ok_or_else(|| {
        let failure = Failure::new(Exit::NotAllowed, format!("there is no key for the provider {}", choice.name));
        failure.hint(format!("set {name}, or api_key_file under [providers.{}]", choice.name))
    })
}

fn following(protocol: Protocol, own: &ProviderConfig, poll_every: Duration) -> Following {
    let settle_after = match protocol {
        Protocol::OpenAi => Duration::from_secs(120),
        Protocol::Anthropic => Duration::from_secs(900),
    };
    Following {
        poll_every: own.poll_seconds.map_or(poll_every, Duration::from_secs_f64),
        settle_after: own.settle_seconds.map_or(settle_after, Duration::from_secs_f64),
        hold: own.policy == Some(Policy::Hold),
        exclusive: own.exclusive,
    }
}

/// Tells accounts apart without showing the key.
fn fingerprint(name: &str, base: &str, key: &str) -> String {
    format!("{name}:{}", short_digest(&[base.trim_end_matches('/'), key]))
}

/// The first 12 hex digits of a digest over length-prefixed parts.
pub fn short_digest(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
