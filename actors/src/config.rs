//! Settings of the actors. Each gets its own section; all spans are `Duration`s.

use crate::backoff::Backoff;
use std::collections::HashMap;
use std::time::Duration;
use storage::model::Money;
use storage::store::DayCap;

/// How children are watched and rebuilt.
#[derive(Debug, Clone, Copy)]
pub struct Supervision {
    /// A child that leaves a ping unanswered this long is hung.
    pub hang_after: Duration,
    /// More restarts than this within `window` end the process with exit code 70.
    pub max_restarts: usize,
    pub window: Duration,
    pub backoff: Backoff,
}

/// How a provider's batches are followed.
#[derive(Debug, Clone, Copy)]
pub struct Following {
    pub poll_every: Duration,
    /// How long an ambiguous create is looked for before it counts as absent.
    pub settle_after: Duration,
    /// Never create again on a proof of absence alone: wait for an operator.
    pub hold: bool,
    /// Nobody else makes batches in this account, so an unknown one may be cancelled.
    pub exclusive: bool,
}

/// Everything the actors are told.
#[derive(Debug, Clone)]
pub struct Settings {
    pub supervision: Supervision,
    pub following: Following,
    /// Of accounts that are followed in a way of their own.
    pub followings: HashMap<String, Following>,
    /// How often an actor looks by itself.
    pub tick_every: Duration,
    pub sweep_every: Duration,
    /// Most that may be spent in a day (UTC), over all envs.
    pub max_usd_per_day: Option<Money>,
    /// The same of envs that have a cap of their own.
    pub env_usd_per_day: HashMap<String, Money>,
    /// How long ended runs are kept; `None` for ever.
    pub keep_runs: Option<Duration>,
    /// How long the audit is kept; `None` for ever.
    pub keep_audit: Option<Duration>,
    /// Whether duplicates at providers are cancelled.
    pub repair_enabled: bool,
    /// Whether sessions go on by themselves with a new driver.
    pub resume_enabled: bool,
    /// Node lease; renewed three times within it.
    pub lease: Duration,
    /// Only this pool's batches are acted on; `None` means all of the store.
    pub pool: Option<String>,
    /// Longest time that one look may take before it is given up and repeated.
    pub look_deadline: Duration,
}

impl Settings {
    /// What a batch of an env has to keep to, in the one order in which all claimers take them.
    pub fn day_caps(&self, env: &str) -> Vec<DayCap> {
        let all = self.max_usd_per_day.map(|max| DayCap { env: None, max });
        let own = self.env_usd_per_day.get(env).map(|max| DayCap { env: Some(env.to_owned()), max: *max });
        all.into_iter().chain(own).collect()
    }

    /// How the batches of an account are followed.
    pub fn following(&self, account: &str) -> Following {
        self.followings.get(account).copied().unwrap_or(self.following)
    }
}

impl Default for Supervision {
    fn default() -> Supervision {
        Supervision {
            hang_after: Duration::from_secs(5),
            max_restarts: 5,
            window: Duration::from_secs(30),
            backoff: Backoff { base: Duration::from_millis(10), cap: Duration::from_millis(500) },
        }
    }
}

impl Settings {
    /// Whether anything is deleted because of its age.
    pub fn forgets(&self) -> bool {
        self.keep_runs.is_some() || self.keep_audit.is_some()
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            supervision: Supervision::default(),
            following: Following {
                poll_every: Duration::from_secs(30),
                settle_after: Duration::from_secs(120),
                hold: false,
                exclusive: false,
            },
            followings: HashMap::new(),
            tick_every: Duration::from_millis(100),
            sweep_every: Duration::from_secs(5),
            max_usd_per_day: None,
            env_usd_per_day: HashMap::new(),
            keep_runs: None,
            keep_audit: None,
            repair_enabled: true,
            resume_enabled: true,
            lease: Duration::from_secs(15),
            pool: None,
            look_deadline: Duration::from_secs(120),
        }
    }
}
