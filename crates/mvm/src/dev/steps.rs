//! What `mvm dev` does from each state: a table, and nothing else.
//!
//! ```text
//! ground      first              the dev VM   then
//! bare        bootstrap          absent       make, start, enter
//! absent      set up             resting      start, enter
//! stopped     start the machine  running      enter
//! unequipped  set up             stuck        stop, start, enter
//! ready       —                  paused       wake, enter
//!                                sleeping     wake, enter
//! ```
//! It refuses to know how any step is done.

use std::fmt;

use mvm_core::state::State;
use serde::{Deserialize, Serialize};

/// What there is for microVMs to run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// Nothing, and nobody chose what it shall be.
    Bare,
    /// A machine was chosen and is not made yet.
    Absent,
    /// The machine is off.
    Stopped,
    /// This machine, without Firecracker or the default image.
    Unequipped,
    /// All that is needed.
    Ready,
}

/// What the dev VM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vm {
    /// Never made, or destroyed.
    Absent,
    /// Made, and without a process or a snapshot.
    Resting,
    /// Running, and its agent answers.
    Running,
    /// Running, and its agent does not answer.
    Stuck,
    /// Its vCPUs are paused.
    Paused,
    /// On disk.
    Sleeping,
}

impl Vm {
    /// The dev VM whose record says this, while its agent `answers`.
    #[must_use]
    pub const fn of(state: Option<State>, answer: Answer) -> Self {
        match state {
            None | Some(State::Destroyed) => Self::Absent,
            Some(State::Created | State::Ready | State::Stopped) => Self::Resting,
            Some(State::Warm) => Self::Paused,
            Some(State::Sleeping) => Self::Sleeping,
            Some(State::Running) => match answer {
                Answer::Given => Self::Running,
                Answer::None => Self::Stuck,
            },
        }
    }
}

/// Whether the agent of a guest answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It did.
    Given,
    /// It did not, in time.
    None,
}

/// One thing that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Everything that microVMs need, packages of the system included.
    Bootstrap,
    /// Everything that microVMs need but those packages.
    SetUp,
    /// The machine for microVMs is started.
    StartMachine,
    /// The image is built, and the dev VM made.
    Make,
    /// It boots.
    Start,
    /// It goes on where it was.
    Wake,
    /// It is stopped.
    Stop,
    /// A shell in it.
    Enter,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bootstrap => "bootstrap",
            Self::SetUp => "setup",
            Self::StartMachine => "start the machine for microVMs",
            Self::Make => "make the dev VM",
            Self::Start => "start the dev VM",
            Self::Wake => "wake the dev VM",
            Self::Stop => "stop the dev VM",
            Self::Enter => "enter the dev VM",
        })
    }
}

/// What has to be done before there can be a dev VM.
#[must_use]
pub const fn prepare(ground: Ground) -> Option<Step> {
    match ground {
        Ground::Bare => Some(Step::Bootstrap),
        Ground::Absent | Ground::Unequipped => Some(Step::SetUp),
        Ground::Stopped => Some(Step::StartMachine),
        Ground::Ready => None,
    }
}

/// What leads to a shell in the dev VM.
#[must_use]
pub const fn enter(vm: Vm) -> &'static [Step] {
    match vm {
        Vm::Absent => &[Step::Make, Step::Start, Step::Enter],
        Vm::Resting => &[Step::Start, Step::Enter],
        Vm::Running => &[Step::Enter],
        Vm::Stuck => &[Step::Stop, Step::Start, Step::Enter],
        Vm::Paused | Vm::Sleeping => &[Step::Wake, Step::Enter],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_of_the_ground_is_made_and_no_more() {
        let table = [
            (Ground::Bare, Some(Step::Bootstrap)),
            (Ground::Absent, Some(Step::SetUp)),
            (Ground::Stopped, Some(Step::StartMachine)),
            (Ground::Unequipped, Some(Step::SetUp)),
            (Ground::Ready, None),
        ];
        for (ground, step) in table {
            assert_eq!(prepare(ground), step, "{ground:?}");
        }
    }

    #[test]
    fn from_every_state_of_the_dev_vm_the_shortest_way_leads_into_it() {
        use Step::{Enter, Make, Start, Stop, Wake};
        let table: [(Option<State>, Answer, &[Step]); 9] = [
            (None, Answer::None, &[Make, Start, Enter]),
            (Some(State::Created), Answer::None, &[Start, Enter]),
            (Some(State::Ready), Answer::None, &[Start, Enter]),
            (Some(State::Stopped), Answer::None, &[Start, Enter]),
            (Some(State::Running), Answer::Given, &[Enter]),
            (Some(State::Running), Answer::None, &[Stop, Start, Enter]),
            (Some(State::Warm), Answer::None, &[Wake, Enter]),
            (Some(State::Sleeping), Answer::None, &[Wake, Enter]),
            (Some(State::Destroyed), Answer::None, &[Make, Start, Enter]),
        ];
        for (state, answer, steps) in table {
            assert_eq!(enter(Vm::of(state, answer)), steps, "{state:?} {answer:?}");
        }
    }
}
