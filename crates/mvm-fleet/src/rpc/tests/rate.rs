//! How many requests a node answers. Run by `cargo xtask bench`, in release and on one processor.

use std::time::Instant;

use super::*;

/// Who asks, and how often each: as many as a coordinator may at once, so that no limit is met.
const CALLERS: usize = 16;
const REQUESTS: usize = 1000;

#[test]
#[ignore = "measures; needs a release build to mean something"]
fn asking_from_sixteen_sides_at_once() {
    let bench = Bench::new();
    let registry = Registry::open(bench.directory.path(), None).unwrap();
    let node = identity(bench.directory.path(), Role::Node);
    let address = bench.server.address().to_string();
    let callers = (0..CALLERS).map(|number| {
        let caller = signed_by(&registry, Role::Coordinator, &format!("boss-{number}"), &node);
        Client::connect(&address, &caller).unwrap()
    });
    let callers: Vec<Client> = callers.collect();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for client in &callers {
            scope.spawn(|| {
                for _ in 0..REQUESTS {
                    client.ask(&Request::NodeStats {}).unwrap();
                }
            });
        }
    });
    let took = began.elapsed();
    let all = CALLERS * REQUESTS;
    let rate = all as u128 * 1000 / took.as_millis().max(1);
    let said = format!(
        "asking {all} times from {CALLERS} sides, both ends of each on the processors given: {rate} requests a \
         second, {took:?} in all\n"
    );
    std::io::Write::write_all(&mut std::io::stdout(), said.as_bytes()).unwrap();
}
