//! What networks, published ports and `net verify` are called and mean.

use mvm::{
    CrossTenant, Dns, Expected, NetReport, Probe, ProbeOutcome, ProbeTarget, Protocol, Publish,
    TapOwner, TenantNet,
};

use super::{describe, leaf, words};

leaf! {
    Publish => { "type": "string", "pattern": "^([0-9.]+:)?[0-9]+:[0-9]+/(tcp|udp)$" };
    std::net::Ipv4Addr => { "type": "string", "format": "ipv4" };
}

words!(Protocol, "Protocol", "What a port speaks.", [Tcp, Udp]);
words!(
    CrossTenant,
    "CrossTenant",
    "Whether a guest's packet reaches another tenant.",
    [ClosedByRoutes, ClosedByPackets, Open]
);
words!(Expected, "Expected", "What shall come of a probe.", [Open, Closed]);
words!(
    ProbeOutcome,
    "ProbeOutcome",
    "What came of a probe; one that was refused was reached.",
    [Reachable, Refused, Unreachable, Silent, Unsupported]
);

describe!(Dns, "Dns", "How the host resolves names for guests.", {
    resolvers: "The resolvers that guests' queries are handed to.",
} or absent {
    problem: "Why there are none, for people.",
});

describe!(NetReport, "NetReport", "What the networks are, and what is wrong with them.", {
    tenants: "Each tenant's network.",
    dns: "Where guests' name queries go.",
    probes: "What guests tried; empty unless asked deeply.",
    findings: "Everything that is wrong, of tenants and of the host.",
});

describe!(TenantNet, "TenantNet", "The network of one tenant as it is.", {
    tenant: "Whose.",
    tenant_net_id: "Its number.",
    bridge: "The name of its bridge; null when there is none.",
    up: "Whether the bridge is up, with its gateway and its MTU.",
    gateway: "The gateway, as recorded.",
    subnet: "The subnet, as recorded.",
    masquerade: "Whether guests leave under the host's address.",
    forward_rules: "Whether the rules stand that let guests out and answers back.",
    isolation_rules: "Whether both walls stand: the tables and the policy routes.",
    taps: "Its taps with their owners.",
    cross_tenant_probe: "Whether a guest's packet would reach another tenant.",
    findings: "What is wrong with it.",
});

describe!(TapOwner, "TapOwner", "A tap, and whose it is.", {
    tap: "Its name.",
    instance: "Its instance; null when no instance has that place.",
    uid: "The user that alone may open it, as recorded.",
});

describe!(Probe, "Probe", "What a guest tried.", {
    from: "Which guest.",
    what: "What it tried, for people.",
    target: "The target.",
    expected: "What shall come of it.",
    outcome: "What came of it.",
    of: "The tenant that the target belongs to; null for the host and addresses of nobody.",
});

describe!(ProbeTarget, "ProbeTarget", "Something that a guest tries to reach.", {
    address: "The address.",
    port: "The port.",
    protocol: "What is spoken there.",
});
