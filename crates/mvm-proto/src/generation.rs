//! Protocol generations: which rule book a session follows.
//!
//! Each side says the range it speaks; the highest common one holds for the session. This module
//! refuses to know what differs between generations.

use serde::{Deserialize, Serialize};

/// The inclusive range of protocol generations that one side speaks, on the wire `[min, max]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u16, u16)", into = "(u16, u16)")]
pub struct Generations {
    /// The oldest generation understood, 1 or more.
    pub min: u16,
    /// The newest generation understood, never below `min`.
    pub max: u16,
}

/// Two sides have no generation in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "no common protocol generation: this side speaks {}–{}, the other {}–{}",
    ours.min, ours.max, theirs.min, theirs.max
)]
pub struct GenerationError {
    /// What this side speaks.
    pub ours: Generations,
    /// What the other side said it speaks.
    pub theirs: Generations,
}

impl Generations {
    /// What this crate speaks.
    pub const SUPPORTED: Generations = Generations { min: 1, max: 1 };

    /// Finds the highest generation that both ranges hold.
    ///
    /// # Errors
    /// [`GenerationError`] when the ranges do not meet, or one of them is empty.
    pub fn common(self, theirs: Generations) -> Result<u16, GenerationError> {
        let top = self.max.min(theirs.max);
        let is_shared = top >= self.min && top >= theirs.min && top >= 1;
        if is_shared { Ok(top) } else { Err(GenerationError { ours: self, theirs }) }
    }
}

impl From<(u16, u16)> for Generations {
    fn from((min, max): (u16, u16)) -> Self {
        Self { min, max }
    }
}

impl From<Generations> for (u16, u16) {
    fn from(range: Generations) -> Self {
        (range.min, range.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_generation_is_chosen() {
        let ours = Generations { min: 2, max: 3 };
        assert_eq!(ours.common(Generations { min: 1, max: 2 }), Ok(2));
        assert_eq!(ours.common(Generations { min: 3, max: 9 }), Ok(3));
        assert_eq!(ours.common(Generations { min: 1, max: 9 }), Ok(3));
    }

    #[test]
    fn ranges_that_do_not_meet_are_refused() {
        let ours = Generations { min: 2, max: 3 };
        for theirs in [(1, 1), (4, 5), (3, 1), (0, 0)] {
            assert!(ours.common(theirs.into()).is_err(), "{theirs:?}");
        }
    }
}
