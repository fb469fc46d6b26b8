//! The rules of the reference that depart from ours, one switch each.

/// False everywhere: the reference as published. True: that one rule is ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches, each named in RULES")]
pub struct Rules {
    /// A group takes over only devices that it is eligible for.
    pub eligible: bool,
    /// No request is turned down for want of supply.
    pub no_admission: bool,
    /// The supply is what checked in within 10 minutes, and not the last 1,000 check-ins.
    pub time_window: bool,
    /// A request reaches the policy when its round opens, not 0.1 s later.
    pub no_gap: bool,
    /// The demand falls with the offer, not when its task starts.
    pub count_at_offer: bool,
    /// At its deadline a round needs the reports of 80 % of its demand, and before its deadline it
    /// ends only after it was filled.
    pub full_responses: bool,
    /// Sessions end when the trace says.
    pub exact_sessions: bool,
    /// The slot of a device that left is offered again.
    pub refill: bool,
    /// A device that finds nothing waits until its session ends.
    pub wait: bool,
    /// A device that has done its task checks in again.
    pub come_back: bool,
}

type Switch = fn(&mut Rules) -> &mut bool;

/// Every switch: its name, what it changes, the switch itself; in the order in which a comparison
/// switches one after the other to ours.
pub const RULES: [(&str, &str, Switch); 10] = [
    ("eligible", "groups take over only devices that are eligible", |r| &mut r.eligible),
    ("no_admission", "no request is turned down for want of supply", |r| &mut r.no_admission),
    ("time_window", "supply of 10 minutes instead of 1,000 check-ins", |r| &mut r.time_window),
    ("no_gap", "requests reach the policy at once, not after 0.1 s", |r| &mut r.no_gap),
    ("count_at_offer", "demand falls at the offer: no over-dispatch", |r| &mut r.count_at_offer),
    ("full_responses", "rounds need 80 % of their demand, and to be filled", |r| {
        &mut r.full_responses
    }),
    ("exact_sessions", "sessions are not lengthened by 80 s", |r| &mut r.exact_sessions),
    ("refill", "the slot of a device that left is offered again", |r| &mut r.refill),
    ("wait", "a device that finds nothing waits for its session", |r| &mut r.wait),
    ("come_back", "a device that has done its task checks in again", |r| &mut r.come_back),
];

impl Rules {
    /// Switches a rule to ours by its name. False: there is no such rule.
    pub fn switch(&mut self, name: &str) -> bool {
        let known = RULES.iter().find(|(known, _, _)| *known == name);
        if let Some((_, _, switch)) = known {
            *switch(self) = true;
        }
        known.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_switch_switches_one_rule() {
        let mut all = Rules::default();
        for (name, _, _) in RULES {
            let before = all;
            assert!(all.switch(name));
            assert_ne!(before, all, "{name}");
        }
        assert!(!all.switch("unknown"));
    }
}
