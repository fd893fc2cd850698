//! A session: one walk over a typed phase graph, in rounds; its steps are runs.

use super::machine::state_machine;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

state_machine! {
    /// Where a session stands.
    states SessionState {
        Active = "active",
        Closed = "closed",
    }
    /// What can happen to a session.
    events SessionEvent {
        Moved = "moved",
        Completed = "completed",
        NextRound = "next_round",
        Resumed = "resumed",
        Closed = "closed",
        Reopened = "reopened",
    }
    edges {
        Active + Moved => Active,
        Active + Completed => Active,
        Active + NextRound => Active,
        Active + Resumed => Active,
        Active + Closed => Closed,
        Closed + Reopened => Active,
    }
}

#[cfg(test)]
const INITIAL: &[SessionState] = &[SessionState::Active];

/// Why a session was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// Its round was completed (invariant 28).
    Complete,
    /// Somebody gave it up.
    Aborted,
    /// Nothing happened to it for too long, and nothing of it is alive.
    Stale,
    /// Its driver was started again as often as may be.
    Exhausted,
}

impl Closing {
    pub const ALL: &'static [Closing] = &[Closing::Complete, Closing::Aborted, Closing::Stale, Closing::Exhausted];

    pub const fn word(self) -> &'static str {
        match self {
            Closing::Complete => "complete",
            Closing::Aborted => "aborted",
            Closing::Stale => "stale",
            Closing::Exhausted => "exhausted",
        }
    }

    pub fn from_word(word: &str) -> Option<Closing> {
        Closing::ALL.iter().copied().find(|closing| closing.word() == word)
    }
}

impl fmt::Display for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A type of session: its phases, and which may follow which. Immutable for a session once it is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Graph {
    initial: String,
    /// To get here is to complete the round.
    terminal: String,
    edges: BTreeMap<String, Vec<String>>,
}

/// What is wrong with a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GraphFault {
    /// It is not in the graph at all.
    NoInitial(String),
    /// Nothing leads to it.
    NoTerminal(String),
    /// It is where a round ends, and leads on.
    TerminalGoesOn(String),
    Unreachable(String),
    /// No way leads from it to the terminal phase.
    DeadEnd(String),
    Doubled(String, String),
    Name(String),
}

impl fmt::Display for GraphFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GraphFault::NoInitial(phase) => write!(f, "`initial` is `{phase}`, which has no edges"),
            GraphFault::NoTerminal(phase) => {
                write!(f, "no edge leads to `{phase}`, where a round ends; name another phase with `terminal`")
            }
            GraphFault::TerminalGoesOn(phase) => {
                write!(f, "`{phase}` ends a round and may have no edges; the next round begins at `initial` by itself")
            }
            GraphFault::Unreachable(phase) => write!(f, "phase `{phase}` is never reached from `initial`"),
            GraphFault::DeadEnd(phase) => {
                write!(f, "phase `{phase}` is a dead end: no way leads on to the terminal one")
            }
            GraphFault::Doubled(from, to) => write!(f, "the edge from `{from}` to `{to}` is there twice"),
            GraphFault::Name(phase) => {
                write!(f, "phase `{phase}` must have 1 to 64 letters, digits, `.`, `_` or `-`")
            }
        }
    }
}

impl Graph {
    /// A graph in which every phase is reached from the initial one and reaches the terminal one.
    pub fn checked(initial: &str, terminal: &str, edges: BTreeMap<String, Vec<String>>) -> Result<Graph, GraphFault> {
        let graph = Graph { initial: initial.to_owned(), terminal: terminal.to_owned(), edges };
        let is_name = |phase: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            (1..=64).contains(&phase.len()) && phase.bytes().all(fits)
        };
        let phases = graph.phases();
        if let Some(odd) = phases.iter().find(|phase| !is_name(phase)) {
            return Err(GraphFault::Name((*odd).to_owned()));
        }
        if graph.next(initial).is_empty() {
            return Err(GraphFault::NoInitial(graph.initial));
        }
        if !graph.next(terminal).is_empty() {
            return Err(GraphFault::TerminalGoesOn(graph.terminal));
        }
        if !graph.edges.values().flatten().any(|to| *to == graph.terminal) {
            return Err(GraphFault::NoTerminal(graph.terminal));
        }
        for (from, to) in &graph.edges {
            if let Some((_, doubled)) = to.iter().enumerate().find(|(nth, phase)| to[..*nth].contains(phase)) {
                return Err(GraphFault::Doubled(from.clone(), doubled.clone()));
            }
        }
        let reached = graph.walk(initial);
        if let Some(lost) = phases.iter().find(|phase| !reached.contains(phase)) {
            return Err(GraphFault::Unreachable((*lost).to_owned()));
        }
        if let Some(end) = phases.iter().find(|phase| !graph.walk(phase).contains(&terminal)) {
            return Err(GraphFault::DeadEnd((*end).to_owned()));
        }
        Ok(graph)
    }

    pub fn initial(&self) -> &str {
        &self.initial
    }

    pub fn terminal(&self) -> &str {
        &self.terminal
    }

    fn phases(&self) -> BTreeSet<&str> {
        let targets = self.edges.values().flatten();
        self.edges.keys().chain(targets).chain([&self.initial, &self.terminal]).map(String::as_str).collect()
    }

    /// The phases that may follow one; none for a phase that is not of this graph.
    pub fn next(&self, phase: &str) -> &[String] {
        self.edges.get(phase).map_or(&[], Vec::as_slice)
    }

    /// The phases that can be reached from one, itself first, the nearest before the others.
    pub fn walk<'a>(&'a self, from: &'a str) -> Vec<&'a str> {
        let (mut found, mut open) = (vec![from], VecDeque::from([from]));
        while let Some(phase) = open.pop_front() {
            for next in self.next(phase) {
                if !found.contains(&next.as_str()) {
                    found.push(next);
                    open.push_back(next);
                }
            }
        }
        found
    }

    /// Where a phase is in the order in which phases are reached, from 1.
    pub fn number(&self, phase: &str) -> Option<usize> {
        self.walk(&self.initial).iter().position(|own| *own == phase).map(|at| at + 1)
    }
}

/// How far a session has walked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    pub state: SessionState,
    /// Why it is closed, if it is.
    pub closing: Option<Closing>,
    /// From 1.
    pub round: i64,
    pub phase: String,
    /// Whether this round is completed.
    pub completed: bool,
}

/// Why a wish is not granted. Nothing is written then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    Closed(Closing),
    /// Phases of other types are not of this one.
    NoSuchPhase {
        phase: String,
        phases: Vec<String>,
    },
    NoEdge {
        from: String,
        to: String,
    },
    /// The round can be completed only from some phases.
    NotThere {
        from: String,
        before: Vec<String>,
    },
    Incomplete {
        phase: String,
    },
    /// It is open already, and would lose its progress.
    Open {
        phase: String,
    },
    OtherType {
        own: String,
        asked: String,
    },
    /// What is asked for was meant for another round.
    OtherRound {
        own: i64,
        meant: i64,
    },
}

/// What becomes of a session: what is logged, and how it stands then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It stands so already.
    Stay,
    Go(SessionEvent, Walk),
}

impl Walk {
    pub fn new(graph: &Graph) -> Walk {
        let phase = graph.initial.clone();
        Walk { state: SessionState::Active, closing: None, round: 1, phase, completed: false }
    }

    fn open(&self) -> Result<(), Refusal> {
        match self.closing {
            Some(closing) => Err(Refusal::Closed(closing)),
            None => Ok(()),
        }
    }

    /// Where it may go from here (invariant 27): along the edges, and from a completed round to the next one.
    pub fn allowed(&self, graph: &Graph) -> Vec<String> {
        match (self.state, self.completed) {
            (SessionState::Closed, _) => Vec::new(),
            (SessionState::Active, true) => vec![graph.initial.clone()],
            (SessionState::Active, false) => graph.next(&self.phase).to_vec(),
        }
    }

    /// To another phase. The terminal one is reached by completing the round, the initial one after that by the next.
    pub fn to(&self, graph: &Graph, phase: &str) -> Result<Step, Refusal> {
        self.open()?;
        if graph.number(phase).is_none() {
            let phases = graph.walk(&graph.initial).into_iter().map(str::to_owned).collect();
            return Err(Refusal::NoSuchPhase { phase: phase.to_owned(), phases });
        }
        if phase == self.phase {
            return Ok(Step::Stay);
        }
        if self.completed && phase == graph.initial {
            return Ok(Step::Go(SessionEvent::NextRound, self.next_round(graph)));
        }
        if self.completed || !graph.next(&self.phase).iter().any(|next| next == phase) {
            return Err(Refusal::NoEdge { from: self.phase.clone(), to: phase.to_owned() });
        }
        let completed = phase == graph.terminal;
        let event = if completed { SessionEvent::Completed } else { SessionEvent::Moved };
        Ok(Step::Go(event, Walk { phase: phase.to_owned(), completed, ..self.clone() }))
    }

    /// Completes the round, once, from a phase that the terminal one may follow.
    pub fn complete(&self, graph: &Graph) -> Result<Step, Refusal> {
        self.open()?;
        if self.completed {
            return Ok(Step::Stay);
        }
        self.to(graph, &graph.terminal).map_err(|_| {
            let leads = |phase: &&str| graph.next(phase).contains(&graph.terminal);
            let before = graph.walk(&graph.initial).into_iter().filter(leads).map(str::to_owned).collect();
            Refusal::NotThere { from: self.phase.clone(), before }
        })
    }

    /// Closes it; one that is closed stays as it was closed first.
    pub fn close(&self, closing: Closing) -> Result<Step, Refusal> {
        if self.state == SessionState::Closed {
            return Ok(Step::Stay);
        }
        if closing == Closing::Complete && !self.completed {
            return Err(Refusal::Incomplete { phase: self.phase.clone() });
        }
        let closed = Walk { state: SessionState::Closed, closing: Some(closing), ..self.clone() };
        Ok(Step::Go(SessionEvent::Closed, closed))
    }

    /// Opens a closed one again: at the initial phase, as the next round.
    pub fn reopen(&self, graph: &Graph) -> Result<Step, Refusal> {
        match self.state {
            SessionState::Active => Err(Refusal::Open { phase: self.phase.clone() }),
            SessionState::Closed => Ok(Step::Go(SessionEvent::Reopened, self.next_round(graph))),
        }
    }

    fn next_round(&self, graph: &Graph) -> Walk {
        Walk { round: self.round + 1, ..Walk::new(graph) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(pairs: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
        pairs.iter().map(|(from, to)| ((*from).to_owned(), to.iter().map(|to| (*to).to_owned()).collect())).collect()
    }

    fn review() -> Graph {
        let pairs: &[(&str, &[&str])] = &[
            ("context", &["reviews"]),
            ("reviews", &["reviews2", "synthesis"]),
            ("reviews2", &["synthesis"]),
            ("synthesis", &["complete", "reviews"]),
        ];
        Graph::checked("context", "complete", edges(pairs)).unwrap()
    }

    fn at(phase: &str) -> Walk {
        Walk { phase: phase.to_owned(), ..Walk::new(&review()) }
    }

    #[test]
    fn a_graph_with_a_phase_that_is_never_reached_or_never_left_is_refused() {
        for (pairs, fault) in [
            (edges(&[("b", &["complete"])]), GraphFault::NoInitial("a".to_owned())),
            (edges(&[("a", &["b"]), ("b", &["a"])]), GraphFault::NoTerminal("complete".to_owned())),
            (edges(&[("a", &["complete"]), ("complete", &["a"])]), GraphFault::TerminalGoesOn("complete".to_owned())),
            (edges(&[("a", &["complete"]), ("x", &["complete"])]), GraphFault::Unreachable("x".to_owned())),
            (edges(&[("a", &["complete", "x"])]), GraphFault::DeadEnd("x".to_owned())),
            (edges(&[("a", &["complete", "x"]), ("x", &["y"]), ("y", &["x"])]), GraphFault::DeadEnd("x".to_owned())),
            (edges(&[("a", &["complete", "complete"])]), GraphFault::Doubled("a".to_owned(), "complete".to_owned())),
            (edges(&[("a", &["complete", "b c"])]), GraphFault::Name("b c".to_owned())),
        ] {
            assert_eq!(Graph::checked("a", "complete", pairs.clone()), Err(fault.clone()), "{pairs:?}");
            assert!(!fault.to_string().is_empty());
        }
    }

    #[test]
    fn s002_n3_phases_are_numbered_in_the_order_in_which_they_are_reached() {
        let graph = review();
        let numbers = ["context", "reviews", "reviews2", "synthesis", "complete", "topology"].map(|p| graph.number(p));
        assert_eq!(numbers, [Some(1), Some(2), Some(3), Some(4), Some(5), None]);
    }

    #[test]
    fn s002_f4_what_is_still_to_come_is_what_can_be_reached() {
        let graph = review();
        assert_eq!(graph.walk("reviews2"), ["reviews2", "synthesis", "complete", "reviews"]);
        assert_eq!(graph.walk("complete"), ["complete"]);
    }

    #[test]
    fn s002_n8_a_walk_goes_along_the_edges_and_nowhere_else() {
        let graph = review();
        assert_eq!(at("context").to(&graph, "context"), Ok(Step::Stay), "a loop to itself changes nothing");
        assert_eq!(at("context").to(&graph, "reviews"), Ok(Step::Go(SessionEvent::Moved, at("reviews"))));
        let edge = |from: &str, to: &str| Refusal::NoEdge { from: from.to_owned(), to: to.to_owned() };
        assert_eq!(at("reviews").to(&graph, "complete"), Err(edge("reviews", "complete")));
        assert_eq!(at("reviews").to(&graph, "context"), Err(edge("reviews", "context")));
        let foreign = at("reviews").to(&graph, "topology");
        assert!(matches!(foreign, Err(Refusal::NoSuchPhase { phases, .. }) if phases.len() == 5));
        assert_eq!(at("reviews").allowed(&graph), ["reviews2", "synthesis"]);
    }

    #[test]
    fn s002_m8_a_round_is_completed_from_the_phase_before_and_once() {
        let graph = review();
        let done = Walk { completed: true, ..at("complete") };
        let early = Refusal::NotThere { from: "reviews".to_owned(), before: vec!["synthesis".to_owned()] };
        assert_eq!(at("reviews").complete(&graph), Err(early));
        for step in [at("synthesis").complete(&graph), at("synthesis").to(&graph, "complete")] {
            assert_eq!(step, Ok(Step::Go(SessionEvent::Completed, done.clone())));
        }
        assert_eq!(done.complete(&graph), Ok(Step::Stay));
    }

    #[test]
    fn s002_n10_a_completed_round_is_followed_by_the_next_one_at_the_initial_phase() {
        let graph = review();
        let done = Walk { completed: true, ..at("complete") };
        assert_eq!(done.allowed(&graph), ["context"]);
        let Ok(Step::Go(SessionEvent::NextRound, next)) = done.to(&graph, "context") else { panic!("no next round") };
        assert_eq!((next.round, next.phase.as_str(), next.completed), (2, "context", false));
        assert!(matches!(done.to(&graph, "reviews"), Err(Refusal::NoEdge { .. })), "not into the middle of it");
    }

    #[test]
    fn s002_n6_only_a_completed_round_is_closed_as_complete() {
        let refused = Refusal::Incomplete { phase: "reviews".to_owned() };
        assert_eq!(at("reviews").close(Closing::Complete), Err(refused));
        let Ok(Step::Go(SessionEvent::Closed, closed)) = at("reviews").close(Closing::Aborted) else { panic!() };
        assert_eq!((closed.state, closed.closing), (SessionState::Closed, Some(Closing::Aborted)));
        for again in Closing::ALL {
            assert_eq!(closed.close(*again), Ok(Step::Stay), "{again}");
        }
        assert_eq!(closed.to(&review(), "synthesis"), Err(Refusal::Closed(Closing::Aborted)));
        assert_eq!(closed.allowed(&review()), Vec::<String>::new());
    }

    #[test]
    fn s002_n13_a_closed_one_opens_again_as_the_next_round_and_an_open_one_does_not() {
        let graph = review();
        assert!(matches!(at("reviews").reopen(&graph), Err(Refusal::Open { .. })));
        let closed = Walk { state: SessionState::Closed, closing: Some(Closing::Stale), round: 4, ..at("reviews") };
        let Ok(Step::Go(SessionEvent::Reopened, next)) = closed.reopen(&graph) else { panic!("it stays closed") };
        assert_eq!(next, Walk { round: 5, ..Walk::new(&graph) });
    }
}
