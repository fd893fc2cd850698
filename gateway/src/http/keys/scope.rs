//! What a key may do.

use std::fmt;
use std::str::FromStr;

/// One thing that a key may do; what is not granted is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Scope {
    RunsRead,
    RunsWrite,
    Workers,
    QueuesWrite,
    BufferRead,
    JobsRead,
    JobsWrite,
    Admin,
    Chaos,
}

impl Scope {
    pub const ALL: [Scope; 9] = [
        Scope::RunsRead,
        Scope::RunsWrite,
        Scope::Workers,
        Scope::QueuesWrite,
        Scope::BufferRead,
        Scope::JobsRead,
        Scope::JobsWrite,
        Scope::Admin,
        Scope::Chaos,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            Scope::RunsRead => "runs:read",
            Scope::RunsWrite => "runs:write",
            Scope::Workers => "workers",
            Scope::QueuesWrite => "queues:write",
            Scope::BufferRead => "buffer:read",
            Scope::JobsRead => "jobs:read",
            Scope::JobsWrite => "jobs:write",
            Scope::Admin => "admin",
            Scope::Chaos => "chaos",
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A set of scopes, written with commas between them.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u16);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is no scope; there are {}", Scopes::ALL)]
pub struct BadScope {
    word: String,
}

impl Scopes {
    pub const NONE: Scopes = Scopes(0);
    pub const ALL: Scopes = Scopes((1 << Scope::ALL.len()) - 1);

    #[must_use]
    pub const fn with(self, scope: Scope) -> Scopes {
        Scopes(self.0 | scope.bit())
    }

    pub const fn has(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.has(*scope))
    }
}

impl FromStr for Scopes {
    type Err = BadScope;

    fn from_str(text: &str) -> Result<Scopes, BadScope> {
        let mut scopes = Scopes::NONE;
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let scope = Scope::ALL.into_iter().find(|scope| scope.word() == word);
            scopes = scopes.with(scope.ok_or_else(|| BadScope { word: word.to_owned() })?);
        }
        Ok(scopes)
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Scopes {
        scopes.into_iter().fold(Scopes::NONE, Scopes::with)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, scope) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{scope}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scopes({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_as_they_are_written() {
        for scope in Scope::ALL {
            let only: Scopes = scope.word().parse().expect("a scope");
            assert_eq!(only.iter().collect::<Vec<_>>(), [scope]);
            assert_eq!(only.to_string(), scope.word());
        }
        assert_eq!(Scopes::ALL.to_string().parse(), Ok(Scopes::ALL));
        assert_eq!(
            "workers, runs:read,".parse::<Scopes>().map(|scopes| scopes.to_string()).as_deref(),
            Ok("runs:read,workers")
        );
        assert_eq!("".parse(), Ok(Scopes::NONE));
        let bad = "runs:reed".parse::<Scopes>().expect_err("no scope");
        assert!(bad.to_string().starts_with("`runs:reed` is no scope; there are runs:read,runs:write"));
    }
}
