//! `cairn top`: what a served pool does, interval by interval.
//!
//! Invariant: whichever way it ends (a key, a signal, a count, a failure, a reader that went away), the terminal is as it was before.

mod interval;
mod sample;
mod screen;
mod table;

use cairn_engine::ErrorKind;
use cairn_service::{Client, Failure, control};
use std::io::{self, IsTerminal};
use tokio::time::{MissedTickBehavior, interval_at};

use super::{interrupted, pool_of};
use crate::{
    args::{Global, TopArgs},
    output::Output,
};
use interval::Interval;
use sample::Sample;
use screen::{Screen, Wish};

pub(super) async fn run(global: &Global, args: TopArgs, output: &Output) -> Result<(), Failure> {
    let client = served(global).await?;
    let mut earlier = Sample::take(&client).await?;
    let stop = interrupted();
    tokio::pin!(stop);
    let mut view = View::open(output)?;
    let mut ticks = interval_at(tokio::time::Instant::now() + args.interval, args.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let next = async {
            let _ = ticks.tick().await;
            Sample::take(&client).await
        };
        tokio::pin!(next);
        let later = loop {
            tokio::select! {
                later = &mut next => break later?,
                _ = &mut stop => return Ok(()),
                wish = view.wish() => match wish {
                    Wish::Quit => return Ok(()),
                    Wish::Redraw => view.redraw()?,
                },
            }
        };
        let mut interval = Interval::between(&earlier, &later);
        interval.sort(args.sort);
        if !view.show(interval)? {
            return Ok(());
        }
        earlier = later;
        left -= 1;
    }
    Ok(())
}

/// The server of the pool: a pool that nobody serves is not opened for this.
async fn served(global: &Global) -> Result<Client, Failure> {
    let pool = pool_of(global)?;
    match control::find_server(&pool).await? {
        Some((client, _)) => Ok(client),
        None => {
            let text = "is not served, so there is nothing to watch: serve it with \"cairn serve\"";
            Err(Failure::new(ErrorKind::NotFound, format!("pool {} {text}", pool.display())))
        }
    }
}

/// Where intervals are shown.
enum View<'a> {
    /// An object a line.
    Json(&'a Output),
    /// A table after the other.
    Lines(&'a Output),
    /// In the place of the one before.
    Screen(Box<Screen>, Option<Box<Interval>>),
}

impl<'a> View<'a> {
    fn open(output: &'a Output) -> Result<Self, Failure> {
        let plain = !io::stdout().is_terminal() || std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Ok(match (output.is_json(), plain) {
            (true, _) => Self::Json(output),
            (false, true) => Self::Lines(output),
            (false, false) => Self::Screen(Box::new(Screen::enter()?), None),
        })
    }

    /// Shows an interval; says whether anybody still looks.
    fn show(&mut self, interval: Interval) -> Result<bool, Failure> {
        match self {
            Self::Json(output) => {
                let json = serde_json::to_string(&interval)
                    .map_err(|error| cairn_engine::Error::io("cannot form JSON", error.into()))?;
                output.stream(&format!("{json}\n"))
            }
            Self::Lines(output) => output.stream(&format!("{}\n\n", table::lines(&interval, usize::MAX).join("\n"))),
            Self::Screen(_, shown) => {
                *shown = Some(Box::new(interval));
                self.redraw().map(|()| true)
            }
        }
    }

    fn redraw(&mut self) -> Result<(), Failure> {
        match self {
            Self::Screen(screen, Some(interval)) => screen.draw(|width| table::lines(interval, width)),
            _ => Ok(()),
        }
    }

    async fn wish(&mut self) -> Wish {
        match self {
            Self::Screen(screen, _) => screen.wish().await,
            _ => std::future::pending().await,
        }
    }
}
