//! The entities, their legal moves, and the small types they are made of. Knows std, serde and ids only.

pub mod run;
pub mod attempt;
pub mod batch;
pub mod job;
pub mod session;
pub mod node;
pub mod lease;
pub mod id;
pub mod time;
pub mod money;
pub mod machine;
pub mod lane;
pub mod trace;

pub use attempt::request::{RequestEvent, RequestState};
pub use attempt::{AttemptEvent, AttemptState};
pub use batch::{BatchEvent, BatchState, Mode};
pub use id::{BatchId, IdMint, JobId, NodeId, RunId, SessionId};
pub use job::{Ceilings, Draw, JobEvent, JobState, LiveRules, Policy, Scope, Source, Standing, StopReason};
pub use lane::{Basin, Lane};
pub use lease::{Epoch, Lease};
pub use money::{BadMoney, Money};
pub use node::{NodeEvent, NodeState};
pub use run::{NewRun, RunEvent, RunState};
pub use session::{Closing, Graph, GraphFault, Refusal, SessionEvent, SessionState, Step, Walk};
pub use time::{Clock, ManualClock, SystemClock, Timestamp};
pub use trace::TraceParent;
