//! What goes wrong, and at which port call.

use std::collections::BTreeMap;

use crate::chance::Chance;

/// One thing that goes wrong at a port call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The calling process dies before the act.
    DieBefore,
    /// The calling process dies in the act: a snapshot is left half-written, all else undone.
    DieDuring,
    /// The calling process dies after the act.
    DieAfter,
    /// The act is not done and fails, this once.
    FailOnce,
    /// The act is not done and fails, and so does every act of the same name until it is healed.
    FailForever,
    /// The act is done, and reported as failed.
    LoseReply,
    /// A VMM dies before the act: the one concerned, else any.
    KillVmm,
    /// A shim dies before the act: the one concerned, else any.
    KillShim,
    /// VMM and shim die together, so that nobody writes an exit record.
    KillBoth,
    /// The host starts again before the act; what was written stays.
    Reboot,
    /// The power goes before the act; what was not synced is lost, all of it or a part.
    PowerCut,
    /// Nothing more fits on the disk until it is healed.
    DiskFull,
    /// The wall clock jumps by so many seconds.
    ClockJump(i32),
    /// The agent of the guest concerned, else of any, falls silent.
    GuestSilent,
    /// The guest concerned, else any, refuses to drain until it is healed.
    GuestRefuses,
    /// Someone alters the firewall behind our back.
    AlterFirewall,
}

impl Fault {
    /// All faults; the clock jumps back by a day.
    pub const ALL: [Self; 16] = [
        Self::DieBefore,
        Self::DieDuring,
        Self::DieAfter,
        Self::FailOnce,
        Self::FailForever,
        Self::LoseReply,
        Self::KillVmm,
        Self::KillShim,
        Self::KillBoth,
        Self::Reboot,
        Self::PowerCut,
        Self::DiskFull,
        Self::ClockJump(-86_400),
        Self::GuestSilent,
        Self::GuestRefuses,
        Self::AlterFirewall,
    ];
}

/// Which fault comes at which call, counted from 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan(BTreeMap<u64, Fault>);

impl Plan {
    /// Nothing goes wrong.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// One fault, at the `call`-th call.
    #[must_use]
    pub fn at(call: u64, fault: Fault) -> Self {
        Self(BTreeMap::from([(call, fault)]))
    }

    /// Faults at about one in `every` of the first `calls` calls.
    #[must_use]
    pub fn random(chance: &mut Chance, calls: u64, every: u64) -> Self {
        let mut plan = BTreeMap::new();
        let mut call = chance.below(every.saturating_mul(2));
        while call < calls {
            if let Some(fault) = chance.pick(&Fault::ALL) {
                plan.insert(call, *fault);
            }
            call += 1 + chance.below(every.saturating_mul(2));
        }
        Self(plan)
    }

    /// The fault at a call.
    #[must_use]
    pub fn get(&self, call: u64) -> Option<Fault> {
        self.0.get(&call).copied()
    }
}
