//! Progress of long commands, on a terminal's standard error and nowhere else.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Output;

const TRANSFER: &str =
    "{msg} [{bar:30}] {percent:>3}% {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} left {eta}";
const STEPS: &str = "{msg} [{bar:30}] {percent:>3}% left {eta}";

/// A bar over bytes, with rate and time left.
pub(crate) fn transfer(output: &Output, what: String, bytes: u64) -> ProgressBar {
    bar(output, TRANSFER, what, bytes)
}

/// A bar over a number of steps that becomes known later.
pub(crate) fn steps(output: &Output, what: String) -> ProgressBar {
    bar(output, STEPS, what, 0)
}

fn bar(output: &Output, template: &str, what: String, length: u64) -> ProgressBar {
    // Drawn only when standard error is a terminal: indicatif sees to that.
    let target = if output.is_json() { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(length), target).with_style(style.progress_chars("=> ")).with_message(what)
}
