//! What `mvm events` shows.

use mvm::{LoggedEvent, units::Timestamp};

use crate::render::table::table;

pub(crate) fn events(all: &[LoggedEvent]) -> String {
    let row = |logged: &LoggedEvent| {
        let event = &logged.event;
        let subject = [
            Some(event.tenant.to_string()),
            event.pool.as_ref().map(ToString::to_string),
            event.instance.as_ref().map(ToString::to_string),
        ];
        [
            logged.seq.to_string(),
            time(event.time),
            event.event.to_string(),
            subject.into_iter().flatten().collect::<Vec<_>>().join("/"),
            event.actor.to_string(),
            event.reason.clone(),
        ]
    };
    table(["SEQ", "TIME", "EVENT", "SUBJECT", "BY", "REASON"], all.iter().map(row).collect())
}

/// A moment as RFC 3339, UTC, whole seconds. The days of the civil calendar follow Howard
/// Hinnant's `civil_from_days`.
pub(super) fn time(at: Timestamp) -> String {
    let seconds = at.0 / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_rfc_3339() {
        assert_eq!(time(Timestamp(0)), "1970-01-01T00:00:00Z");
        assert_eq!(time(Timestamp(951_782_400_000)), "2000-02-29T00:00:00Z");
        assert_eq!(time(Timestamp(1_763_769_599_000)), "2025-11-21T23:59:59Z");
    }
}
