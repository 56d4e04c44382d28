//! The nets: which of the tests notices when a rule of the engine is broken.

use cairn_engine::sim::{Sabotage, sabotage};

use crate::{
    damage::sweep,
    explore::{Plan, explore},
    simulate::simulate,
};

/// A kind of test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Net {
    /// Crash exploration ([`explore`]).
    Crash,
    /// The damage sweep ([`sweep`]).
    Damage,
    /// Seeded runs with faults ([`simulate`]).
    Simulation,
}

/// All rules are whole again when this is dropped.
#[derive(Debug)]
pub struct Whole(());

impl Whole {
    /// Breaks a rule for everything that this thread runs until then.
    #[must_use]
    pub fn but(rule: Sabotage) -> Self {
        sabotage(Some(rule));
        Self(())
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        sabotage(None);
    }
}

/// Tries the seeds of one net with a rule broken (`None`: with all rules whole); the first seed that notices, and what it says.
#[must_use]
pub fn cast(net: Net, rule: Option<Sabotage>, seeds: std::ops::Range<u64>) -> Option<(u64, String)> {
    let _whole_again = rule.map(Whole::but);
    for seed in seeds {
        let outcome = match net {
            Net::Crash => {
                let plan = Plan { seed, operations: 60, stride: (5, seed as usize), recoveries: 40, only: None };
                explore(&plan).err()
            }
            Net::Damage => sweep(seed).err(),
            Net::Simulation => simulate(seed).err(),
        };
        if let Some(text) = outcome {
            return Some((seed, text));
        }
    }
    None
}
