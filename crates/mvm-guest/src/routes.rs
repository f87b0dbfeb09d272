//! What a gateway works by: `routes.json`, from the config drive at boot and from the host since.
//!
//! The file is replaced as a whole; the built-in gateway, or the image's own, watches it. This
//! module refuses to know how traffic is carried.

use mvm_proto::Routes;

use crate::agent::Agent;
use crate::drives;
use crate::failure::{Context, Outcome};

/// The file's name in the configuration's place.
pub(crate) const FILE: &str = "routes.json";

/// Takes on new routes, unless they are older than those there are.
pub(crate) fn take(agent: &Agent, routes: &Routes) -> Outcome<&'static str> {
    let _one_at_a_time = agent.change();
    if !agent.raise_routes(routes.generation) {
        return Ok("older than what is known");
    }
    let json = serde_json::to_vec_pretty(routes).because("cannot write the routes")?;
    drives::write_public(&agent.places.config.join(FILE), &json)?;
    Ok("routes replaced")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;
    use crate::agent::Places;

    #[test]
    fn routes_that_come_late_do_not_replace_newer_ones() {
        let directory = tempfile::tempdir().unwrap();
        let places = Places { config: directory.path().to_owned(), ..Places::of_a_guest() };
        let agent = Agent::new(places, false);
        let there = || -> Routes {
            serde_json::from_slice(&std::fs::read(directory.path().join(FILE)).unwrap()).unwrap()
        };
        for (generation, then) in [(5, 5), (4, 5), (6, 6), (6, 6)] {
            take(&agent, &Routes { generation, ..Routes::default() }).unwrap();
            assert_eq!(there().generation, then);
        }
    }
}
