//! The one form in which an entity's legal moves are written down.

/// A table of legal moves `(from, event, to)`. Whatever is not in it is illegal, in Rust and in SQL.
pub type Edges<S, E> = [(S, E, S)];

/// Looks the move up; `None` means that it is illegal.
pub fn after<S: Copy + PartialEq, E: Copy + PartialEq>(edges: &Edges<S, E>, state: S, event: E) -> Option<S> {
    edges.iter().find(|(from, by, _)| *from == state && *by == event).map(|(_, _, to)| *to)
}

/// A state that no edge leaves is terminal: it never changes again (invariant 1).
pub fn is_terminal<S: Copy + PartialEq, E>(edges: &Edges<S, E>, state: S) -> bool {
    !edges.iter().any(|(from, _, _)| *from == state)
}

/// Declares an entity's states and events with their stored words, its EDGES table, and the look-ups on it.
macro_rules! state_machine {
    (
        $(#[$state_doc:meta])* states $state:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }
        $(#[$event_doc:meta])* events $event:ident { $($(#[$happening_doc:meta])* $happening:ident = $name:literal),+ $(,)? }
        edges { $($from:ident + $by:ident => $to:ident),+ $(,)? }
    ) => {
        $(#[$state_doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $state { $($(#[$variant_doc])* $variant),+ }

        $(#[$event_doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $event { $($(#[$happening_doc])* $happening),+ }

        /// Every legal move. Nothing else is legal, in Rust or in SQL.
        pub const EDGES: &$crate::model::machine::Edges<$state, $event> =
            &[$(($state::$from, $event::$by, $state::$to)),+];

        impl $state {
            pub const ALL: &'static [$state] = &[$($state::$variant),+];

            /// The word that is stored, shown and used as a label.
            pub const fn word(self) -> &'static str {
                match self { $($state::$variant => $word),+ }
            }

            pub fn from_word(word: &str) -> Option<$state> {
                match word { $($word => Some($state::$variant),)+ _ => None }
            }

            pub fn after(self, event: $event) -> Option<$state> {
                $crate::model::machine::after(EDGES, self, event)
            }

            pub fn is_terminal(self) -> bool {
                $crate::model::machine::is_terminal(EDGES, self)
            }
        }

        impl $event {
            pub const fn word(self) -> &'static str {
                match self { $($event::$happening => $name),+ }
            }

            pub fn from_word(word: &str) -> Option<$event> {
                match word { $($name => Some($event::$happening),)+ _ => None }
            }
        }

        impl std::fmt::Display for $state {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }

        #[cfg(test)]
        mod edges {
            use super::*;

            #[test]
            fn every_state_is_reached_and_words_are_distinct() {
                for (index, state) in $state::ALL.iter().enumerate() {
                    let reached = EDGES.iter().any(|(from, _, to)| to == state && from != state);
                    assert!(index == 0 || reached || INITIAL.contains(state), "{state} is never reached");
                    assert_eq!($state::from_word(state.word()), Some(*state));
                }
            }

            #[test]
            fn one_event_leads_to_one_state() {
                for (index, (from, by, _)) in EDGES.iter().enumerate() {
                    let again = EDGES[index + 1..].iter().any(|(f, b, _)| f == from && b == by);
                    assert!(!again, "{from} has two ways out by {by:?}");
                }
            }
        }
    };
}

pub(crate) use state_machine;
