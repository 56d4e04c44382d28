//! `cairn-sim`: runs simulations for as long as it is told, and replays what failed.

use std::{process::ExitCode, time::Duration};

use cairn_engine::sim::{Sabotage, Survivors};
use cairn_simulation::{
    damage::sweep,
    explore::{Explored, Plan, explore},
    nets::{Net, cast},
    simulate::simulate,
    soak::{Soak, soak},
};
use clap::{Parser, Subcommand};

/// Proves the engine by simulation: crash exploration, damage, seeded runs with faults. Everything follows from seeds.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs everything with new seeds for a time, on all processors, and ends with a verdict.
    Soak {
        /// How long, in seconds.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// First seed.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Runs at once; by default as many as there are processors.
        #[arg(long)]
        jobs: Option<usize>,
    },
    /// Simulation: runs the seeds FROM to TO (or FROM alone) and says what each did.
    Seed {
        /// First seed.
        from: u64,
        /// Last seed.
        to: Option<u64>,
    },
    /// Crash exploration of one run; with --moment, of one crash.
    Crash {
        /// Seed of the run.
        #[arg(long)]
        seed: u64,
        /// Operations of each client.
        #[arg(long, default_value_t = 60)]
        operations: u64,
        /// Look at one in so many crash points.
        #[arg(long, default_value_t = 1)]
        stride: usize,
        /// Explore the recovery of one in so many crashes, too (0: of none).
        #[arg(long, default_value_t = 20)]
        recoveries: u64,
        /// Only this crash point.
        #[arg(long)]
        moment: Option<usize>,
        /// Only these survivors, as a failure prints them: 'AllBut(3)', 'Torn(77)'.
        #[arg(long, requires = "moment", value_parser = survivors)]
        survivors: Option<Survivors>,
    },
    /// The damage sweep: each block of a pool damaged in turn.
    Damage {
        /// Seed of the pool.
        #[arg(long)]
        seed: u64,
    },
    /// Breaks each rule of the engine in turn and says which tests notice.
    Nets {
        /// Only this rule.
        #[arg(long)]
        rule: Option<String>,
        /// Seeds that each test tries.
        #[arg(long, default_value_t = 40)]
        seeds: u64,
    },
}

/// Survivors as their debug form prints them.
fn survivors(text: &str) -> Result<Survivors, String> {
    let (name, number) = match text.split_once('(') {
        Some((name, rest)) => (name, rest.trim_end_matches(')').parse::<u64>().ok()),
        None => (text, None),
    };
    match (name, number) {
        ("All", None) => Ok(Survivors::All),
        ("None", None) => Ok(Survivors::None),
        ("Completed", None) => Ok(Survivors::Completed),
        ("AllBut", Some(n)) => Ok(Survivors::AllBut(n as usize)),
        ("Only", Some(n)) => Ok(Survivors::Only(n as usize)),
        ("Random", Some(n)) => Ok(Survivors::Random(n)),
        ("Torn", Some(n)) => Ok(Survivors::Torn(n)),
        _ => Err("one of All, None, Completed, AllBut(N), Only(N), Random(SEED), Torn(SEED)".to_owned()),
    }
}

fn verdict(failures: &[String]) -> ExitCode {
    for failure in failures {
        println!("{failure}");
    }
    println!("verdict: {}", if failures.is_empty() { "PASS" } else { "FAIL" });
    ExitCode::from(u8::from(!failures.is_empty()))
}

fn run_seeds(from: u64, to: u64) -> ExitCode {
    let mut failures = Vec::new();
    for seed in from..=to {
        match simulate(seed) {
            Ok(outcome) => println!("seed {seed}: {outcome:?}"),
            Err(failure) => failures.push(format!("seed {seed}: {failure}")),
        }
    }
    verdict(&failures)
}

fn run_soak(seconds: u64, from: u64, jobs: Option<usize>) -> ExitCode {
    let jobs = jobs.or_else(|| std::thread::available_parallelism().ok().map(Into::into)).unwrap_or(1);
    println!("soak: {seconds} s from seed {from} on, {jobs} at once");
    let Soak { seeds, operations, explored, swept, failures, took } =
        soak(Duration::from_secs(seconds), from, jobs, |line| println!("{line}"));
    let Explored { points, images, recovery_points, .. } = explored;
    println!(
        "{seeds} simulation seeds ({from} to {}), {operations} operations of clients, {:.0} a second of the whole run",
        from + seeds.max(1) - 1,
        operations as f64 / took.as_secs_f64().max(1e-9),
    );
    println!(
        "{points} crash points and {recovery_points} within recoveries, {images} pools opened and verified for the first"
    );
    println!(
        "{} bits flipped one at a time ({} refused, {} reported, {} harmless, {} shortened by the last group)",
        swept.bits, swept.refused, swept.reported, swept.harmless, swept.shortened
    );
    println!("{:.0} s", took.as_secs_f64());
    verdict(&failures)
}

fn run_nets(only: Option<&str>, seeds: u64) -> ExitCode {
    let mut failures = Vec::new();
    for rule in Sabotage::ALL {
        let name = format!("{rule:?}");
        if only.is_some_and(|o| o != name) {
            continue;
        }
        let mut noticed = false;
        for (net, seeds) in [(Net::Damage, seeds / 20 + 1), (Net::Simulation, seeds * 10), (Net::Crash, seeds / 4)] {
            if let Some((seed, text)) = cast(net, Some(rule), 0..seeds) {
                noticed = true;
                println!("{name}: {net:?}, seed {seed}: {}", text.lines().next().unwrap_or_default());
                break;
            }
        }
        if !noticed {
            failures.push(format!("{name}: nobody noticed"));
        }
    }
    verdict(&failures)
}

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Soak { seconds, from, jobs } => run_soak(seconds, from, jobs),
        Command::Seed { from, to } => run_seeds(from, to.unwrap_or(from)),
        Command::Crash { seed, operations, stride, recoveries, moment, survivors } => {
            let only = moment.map(|m| (m, survivors));
            match explore(&Plan { seed, operations, stride: (stride.max(1), 0), recoveries, only }) {
                Ok(explored) => {
                    println!("{explored:?}");
                    verdict(&[])
                }
                Err(failure) => verdict(&[failure]),
            }
        }
        Command::Damage { seed } => match sweep(seed) {
            Ok(swept) => {
                println!("{swept:?}");
                verdict(&[])
            }
            Err(failure) => verdict(&[failure]),
        },
        Command::Nets { rule, seeds } => run_nets(rule.as_deref(), seeds),
    }
}
