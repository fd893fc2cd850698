//! A provider account, as servers and commands know it by their configuration.

use crate::case::Protocol;
use crate::provider::Account;
use serde_json::{Value, json};
use tempfile::TempDir;

/// An account at a provider that servers and commands know under one name.
pub struct Supplier {
    pub account: Account,
    pub protocol: Protocol,
    pub name: &'static str,
    /// With the file of its key.
    dir: TempDir,
}

impl Supplier {
    pub fn new(protocol: Protocol, account: Account) -> Supplier {
        let name = match protocol {
            Protocol::OpenAi => "acme",
            Protocol::Anthropic => "apex",
        };
        let dir = tempfile::tempdir().expect("a folder for the key");
        std::fs::write(dir.path().join("key"), &account.key).expect("the key is written");
        Supplier { account, protocol, name, dir }
    }

    /// What the configuration of whoever buys from it says.
    pub fn config(&self) -> String {
        let (addr, key) = (self.account.addr(), self.dir.path().join("key"));
        let (protocol, url) = match self.protocol {
            Protocol::OpenAi => ("openai", format!("http://{addr}/v1")),
            Protocol::Anthropic => ("anthropic", format!("http://{addr}")),
        };
        format!(
            "[providers.{0}]\nprotocol = \"{protocol}\"\nbase_url = \"{url}\"\napi_key_file = \"{1}\"\naccount = \"{0}-main\"\npoll_seconds = 0.1\nsettle_seconds = 0.3\n",
            self.name,
            key.display(),
        )
    }

    /// That, and a task whose runs it carries out.
    pub fn with_task(&self, task: &str) -> String {
        format!("{}[tasks.{task}]\nkind = \"llm\"\nprovider = \"{}\"\n", self.config(), self.name)
    }

    /// The payload of a run, like no other of this account.
    pub fn payload(&self, number: usize) -> Value {
        let messages = json!([{"role": "user", "content": format!("{} says {number}", self.account.key.len())}]);
        let prompt = format!("request {number} of {}", std::process::id());
        match self.protocol {
            Protocol::OpenAi => json!({"model": "gpt-4o-mini", "messages": messages, "user": prompt, "max_tokens": 16}),
            Protocol::Anthropic => {
                json!({"model": "claude-haiku-4-5", "messages": messages, "system": prompt, "max_tokens": 16})
            }
        }
    }
}
