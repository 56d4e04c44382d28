//! Random histories over NBD, checked against the model.
//!
//! A run is a function of its seed as far as what is asked goes; what overlaps with what is up to the machine. So a seed that
//! failed is likely, not certain, to fail again: run it with `CAIRN_SEED=<seed>`, and with `CAIRN_STEPS` for more steps.
//!
//! While requests are in flight on several connections, control commands (snapshot, revert, grow, clone, delete, diff) run
//! beside them. At quiet points everything is read back. Where the plan says so, the server is killed, and what comes back
//! must be explained by the moments since the last flush that was answered.

mod control;
mod draw;
mod run;
mod snapshots;

pub use run::run;

/// What a run is to be like.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where all choices come from.
    pub seed: u64,
    /// How many choices.
    pub steps: u32,
    /// How many connections.
    pub connections: usize,
    /// How many requests in flight, over all connections.
    pub depth: usize,
    /// Size of the volume at the start, in sectors.
    pub sectors: u64,
    /// Over TCP, not a unix socket.
    pub tcp: bool,
    /// Whether the server is killed now and then.
    pub kills: bool,
}

impl Plan {
    /// With the seed and the number of steps of the environment, where they are set.
    ///
    /// # Panics
    /// They are set and no numbers.
    #[must_use]
    pub fn or_environment(mut self) -> Self {
        let number = |name: &str| {
            let text = std::env::var(name).ok()?;
            Some(text.parse::<u64>().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
        };
        self.seed = number("CAIRN_SEED").unwrap_or(self.seed);
        if let Some(steps) = number("CAIRN_STEPS") {
            self.steps = u32::try_from(steps).expect("CAIRN_STEPS fits into 32 bits");
        }
        self
    }
}
