//! The seven states of an instance and the moves between them (SPEC §3).
//!
//! ```text
//!  create     build      start          warm         sleep
//! ──────▶ Created ──▶ Ready ──▶ Running ◀──▶ Warm ──▶ Sleeping
//!                                │  ▲  wake    │         │
//!                           stop │  │ start    │ stop    │ stop      any ──destroy──▶ Destroyed
//!                                ▼  │          ▼         ▼
//!                               Stopped ◀──────┴─────────┘
//!                     Sleeping ──wake──▶ Running
//! ```
//!
//! A move is what a person or a policy may ask; [`State::next`] is total and says what is legal.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where an instance is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum State {
    /// Registered; its pool has no build yet.
    Created,
    /// Its pool has a build; it never ran.
    Ready,
    /// The guest runs.
    Running,
    /// The guest is in memory, its vCPUs paused.
    Warm,
    /// The guest is on disk, no process is left.
    Sleeping,
    /// No process and no snapshot.
    Stopped,
    /// Gone.
    Destroyed,
}

/// What may be asked of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Move {
    /// The pool has a build.
    Prepare,
    /// Cold boot, or a clone of the pool's base.
    Start,
    /// Pause the vCPUs, keep the memory.
    Warm,
    /// To disk; from Running through Warm.
    Sleep,
    /// Back to Running from Warm or Sleeping.
    Wake,
    /// No process, no snapshot.
    Stop,
    /// Remove it.
    Destroy,
}

/// A move that the state does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{wish} is not possible while {state}; legal now: {}", legal_list(*.state))]
pub struct IllegalMove {
    /// The state it is in.
    pub state: State,
    /// What was asked.
    pub wish: Move,
}

impl State {
    /// All states.
    pub const ALL: [Self; 7] = [
        Self::Created,
        Self::Ready,
        Self::Running,
        Self::Warm,
        Self::Sleeping,
        Self::Stopped,
        Self::Destroyed,
    ];

    /// The state after `wish`.
    ///
    /// # Errors
    /// [`IllegalMove`] with the state and the wish when the table has no such row.
    pub const fn next(self, wish: Move) -> Result<Self, IllegalMove> {
        match (self, wish) {
            (Self::Created, Move::Prepare) => Ok(Self::Ready),
            (Self::Ready | Self::Stopped, Move::Start)
            | (Self::Warm | Self::Sleeping, Move::Wake) => Ok(Self::Running),
            (Self::Running, Move::Warm) => Ok(Self::Warm),
            (Self::Running | Self::Warm, Move::Sleep) => Ok(Self::Sleeping),
            (Self::Running | Self::Warm | Self::Sleeping, Move::Stop) => Ok(Self::Stopped),
            (
                Self::Created
                | Self::Ready
                | Self::Running
                | Self::Warm
                | Self::Sleeping
                | Self::Stopped,
                Move::Destroy,
            ) => Ok(Self::Destroyed),
            (state, wish) => Err(IllegalMove { state, wish }),
        }
    }

    /// The moves that are legal now.
    #[must_use]
    pub fn legal(self) -> Vec<Move> {
        Move::ALL.into_iter().filter(|wish| self.next(*wish).is_ok()).collect()
    }

    /// Whether a VMM process belongs to this state.
    #[must_use]
    pub const fn has_process(self) -> bool {
        matches!(self, Self::Running | Self::Warm)
    }
}

impl Move {
    /// All moves.
    pub const ALL: [Self; 7] = [
        Self::Prepare,
        Self::Start,
        Self::Warm,
        Self::Sleep,
        Self::Wake,
        Self::Stop,
        Self::Destroy,
    ];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "Created",
            Self::Ready => "Ready",
            Self::Running => "Running",
            Self::Warm => "Warm",
            Self::Sleeping => "Sleeping",
            Self::Stopped => "Stopped",
            Self::Destroyed => "Destroyed",
        })
    }
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prepare => "build",
            Self::Start => "start",
            Self::Warm => "warm",
            Self::Sleep => "sleep",
            Self::Wake => "wake",
            Self::Stop => "stop",
            Self::Destroy => "destroy",
        })
    }
}

fn legal_list(state: State) -> String {
    let moves: Vec<String> = state.legal().iter().map(ToString::to_string).collect();
    if moves.is_empty() { "nothing".to_owned() } else { moves.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of SPEC §3, written out again by hand.
    const TABLE: [(State, Move, State); 17] = [
        (State::Created, Move::Prepare, State::Ready),
        (State::Ready, Move::Start, State::Running),
        (State::Stopped, Move::Start, State::Running),
        (State::Running, Move::Warm, State::Warm),
        (State::Warm, Move::Wake, State::Running),
        (State::Running, Move::Sleep, State::Sleeping),
        (State::Warm, Move::Sleep, State::Sleeping),
        (State::Sleeping, Move::Wake, State::Running),
        (State::Running, Move::Stop, State::Stopped),
        (State::Warm, Move::Stop, State::Stopped),
        (State::Sleeping, Move::Stop, State::Stopped),
        (State::Created, Move::Destroy, State::Destroyed),
        (State::Ready, Move::Destroy, State::Destroyed),
        (State::Running, Move::Destroy, State::Destroyed),
        (State::Warm, Move::Destroy, State::Destroyed),
        (State::Sleeping, Move::Destroy, State::Destroyed),
        (State::Stopped, Move::Destroy, State::Destroyed),
    ];

    #[test]
    fn exactly_the_moves_of_the_table_are_legal() {
        for state in State::ALL {
            for wish in Move::ALL {
                let row = TABLE.iter().find(|(from, by, _)| *from == state && *by == wish);
                assert_eq!(state.next(wish).ok(), row.map(|(_, _, to)| *to), "{state} by {wish}");
            }
        }
    }

    #[test]
    fn a_refusal_names_state_wish_and_what_is_legal() {
        let said = IllegalMove { state: State::Warm, wish: Move::Start }.to_string();
        assert_eq!(said, "start is not possible while Warm; legal now: sleep, wake, stop, destroy");
    }
}
