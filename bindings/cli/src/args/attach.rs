//! `cairn attach` and `cairn detach`.

use clap::Args;

#[derive(Args, Debug)]
pub(crate) struct AttachArgs {
    /// The volume, or VOLUME@SNAPSHOT for reading
    #[arg(value_name = "TARGET")]
    pub(crate) target: String,
    /// Queues that the lines to use it ask for: as a rule one for each virtual processor
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub(crate) queues: u16,
}

#[derive(Args, Debug)]
pub(crate) struct DetachArgs {
    /// What was attached
    #[arg(value_name = "TARGET")]
    pub(crate) target: String,
    /// Also while a virtual machine uses it, which then waits for its disk until that is attached again
    #[arg(long)]
    pub(crate) force: bool,
}
