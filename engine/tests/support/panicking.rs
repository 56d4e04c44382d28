//! A panic on the reactor's thread ends the test program: it would leave the test waiting for an answer that never comes.

#![allow(unreachable_pub, missing_docs)]

use std::{backtrace::Backtrace, io::Write, panic, process, sync::Once};

/// From now on. What the panic says goes past the harness, which would not come to show what it captured.
pub fn end_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        panic::set_hook(Box::new(|info| {
            let _shown = writeln!(std::io::stderr(), "{info}\n{}", Backtrace::capture());
            process::exit(101);
        }));
    });
}
