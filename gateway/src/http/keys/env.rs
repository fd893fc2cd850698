//! The env that a request acts in: an org and an environment of it.

use std::fmt;
use std::str::FromStr;

/// Characters of each half of a name.
const PART_MAX: usize = 40;

/// An env, written `ORG/ENV`. Lower-case ASCII only, so that no two names look alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Env {
    /// `ORG/ENV`, as it stands in the store.
    name: String,
    org_bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an env is ORG/ENV, each of 1 to 40 lower-case letters, digits and inner hyphens")]
pub struct BadEnv;

impl Env {
    pub fn new(org: &str, env: &str) -> Result<Env, BadEnv> {
        let good = is_part(org) && is_part(env);
        if good { Ok(Env { name: format!("{org}/{env}"), org_bytes: org.len() }) } else { Err(BadEnv) }
    }

    pub fn as_str(&self) -> &str {
        &self.name
    }

    pub fn org(&self) -> &str {
        &self.name[..self.org_bytes]
    }

    pub fn env(&self) -> &str {
        &self.name[self.org_bytes + 1..]
    }

    /// The name as it stands in a key: `org.env`, since neither half has a dot.
    pub fn slug(&self) -> String {
        format!("{}.{}", self.org(), self.env())
    }

    pub fn from_slug(slug: &str) -> Result<Env, BadEnv> {
        let (org, env) = slug.split_once('.').ok_or(BadEnv)?;
        Env::new(org, env)
    }
}

impl Default for Env {
    /// Where everything happens that names no env.
    fn default() -> Env {
        Env { name: "default/dev".to_owned(), org_bytes: "default".len() }
    }
}

impl FromStr for Env {
    type Err = BadEnv;

    fn from_str(text: &str) -> Result<Env, BadEnv> {
        let (org, env) = text.split_once('/').ok_or(BadEnv)?;
        Env::new(org, env)
    }
}

impl fmt::Display for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn is_part(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let inner = !text.starts_with('-') && !text.ends_with('-');
    (1..=PART_MAX).contains(&text.len()) && text.bytes().all(allowed) && inner
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_env_has_two_plain_halves() {
        let long = format!("{}/{}", "a".repeat(40), "b".repeat(40));
        for name in ["default/dev", "a/b", "acme-2/prod--eu", &long] {
            let env: Env = name.parse().expect(name);
            assert_eq!((env.to_string().as_str(), env.as_str()), (name, name));
            assert_eq!(format!("{}/{}", env.org(), env.env()), name);
            assert_eq!(Env::from_slug(&env.slug()), Ok(env));
        }
        assert_eq!(Env::default(), "default/dev".parse().expect("the default"));
    }

    #[test]
    fn row_88_look_alikes_and_everything_odd_are_no_envs() {
        let longer = format!("a/{}", "b".repeat(41));
        for name in [
            "",
            "/",
            "a",
            "a/",
            "/b",
            "a/b/c",
            "A/b",
            "a/B",
            "-a/b",
            "a-/b",
            "a/-b",
            "a b/c",
            "a.b/c",
            "a_b/c",
            "аcme/prod",
            "acme/prod\n",
            "a/ b",
            "ı/dev",
            &longer,
        ] {
            assert_eq!(name.parse::<Env>(), Err(BadEnv), "{name:?}");
        }
    }
}
