//! `cairn bench`: the load generator, on whatever it is asked to measure.
//!
//! A volume is measured within this process, so its pool must not be served; then the refusal names the export that can be measured instead.

use cairn_bench::{Bench, Live, Report, Target, Verify, svg, table};
use cairn_engine::{Error, ErrorKind, OpenOptions, Pool};
use cairn_service::{Failure, api::Status};
use std::{
    io::Read,
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{interrupted, reach};
use crate::{
    args::{BenchArgs, Global, VerifyWhat},
    exit,
    output::Output,
    progress, session,
    size::Bytes,
};

/// Parts of a progress bar.
const PARTS: u64 = 1000;

pub(super) async fn run(global: &Global, args: BenchArgs, output: &Output) -> Result<ExitCode, Failure> {
    let bench = pattern(&args)?;
    if let Some(path) = &args.svg {
        may_replace(path)?;
    }
    let (target, pool) = target(global, &args, output).await?;
    let outcome = measure(target, bench, output).await;
    if let Some(pool) = pool {
        let closed = pool.close().await;
        // The first failure explains the second.
        outcome.as_ref().map_err(Clone::clone)?;
        closed?;
    }
    let report = outcome?;
    if let Some(path) = &args.svg {
        std::fs::write(path, svg(&report)).map_err(|e| Error::io(format!("cannot write {}", path.display()), e))?;
    }
    output.result(&report, table(&report))?;
    Ok(match &report.verify {
        Some(verify) if verify.failures > 0 => ExitCode::from(exit::CORRUPT),
        _ if report.stopped => exit::code(ErrorKind::Closed),
        _ => ExitCode::SUCCESS,
    })
}

fn invalid(text: &str) -> Failure {
    Failure::new(ErrorKind::Invalid, text)
}

fn pattern(args: &BenchArgs) -> Result<Bench, Failure> {
    let named = Bench::named(&args.rw)?;
    if args.rwmix.is_some() && !args.rw.ends_with("rw") {
        return Err(invalid("rwmix is for patterns that read and write: choose rw or randrw, or leave rwmix out"));
    }
    Ok(Bench {
        read_percent: args.rwmix.unwrap_or(named.read_percent),
        block: args.bs.unwrap_or(named.block),
        depth: args.depth.unwrap_or(named.depth),
        jobs: args.jobs,
        flush_every: args.fsync,
        offset: args.offset,
        size: args.size,
        spread: args.dist.parse()?,
        verify: match args.verify {
            None => Verify::Off,
            Some(VerifyWhat::Reads) => Verify::Reads,
            Some(VerifyWhat::All) => Verify::All,
        },
        fill: args.fill,
        runtime: args.runtime,
        requests: args.requests,
        warm_up: args.warm_up,
        rate: args.iops,
        seed: args.seed,
        interval: args.interval,
        destroy: args.destroy,
        ..named
    })
}

/// A picture takes the place of an earlier one, and of nothing else.
fn may_replace(path: &Path) -> Result<(), Failure> {
    let mut head = Vec::new();
    match std::fs::File::open(path).and_then(|file| file.take(5).read_to_end(&mut head)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(path.display().to_string(), error).into()),
        Ok(_) if head.is_empty() || head == b"<svg " => Ok(()),
        Ok(_) => Err(Failure::new(
            ErrorKind::Exists,
            format!("{} exists and is no SVG picture: choose another name for --svg, or remove it", path.display()),
        )),
    }
}

/// What is measured, and the pool that was opened for it.
async fn target(global: &Global, args: &BenchArgs, output: &Output) -> Result<(Target, Option<Pool>), Failure> {
    let Some(name) = &args.target else {
        return Ok((Target::Scratch { directory: args.dir.clone() }, None));
    };
    if name.contains(['/', ':']) {
        return Ok((name.parse()?, None));
    }
    let reach = reach(global)
        .map_err(|failure| failure.within(format!("{name:?} is taken for a volume (a file is written ./{name})")))?;
    let remedy = |status: &Status| match status.listeners.first() {
        Some(listener) => {
            format!(": measure its export, cairn bench {:?}, or stop it", listener.uri.replace("VOLUME", name))
        }
        None => ": stop it".to_owned(),
    };
    let pool = session::hold(&reach, OpenOptions::new(), |text| output.warn(text), remedy).await?;
    Ok((Target::Volume { pool: pool.clone(), name: name.clone() }, Some(pool)))
}

/// Runs it on a thread of its own; a signal ends it early, with what there is.
async fn measure(target: Target, bench: Bench, output: &Output) -> Result<Report, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let bar = progress::steps(output, bench.name().to_owned());
    bar.set_length(PARTS);
    let shown = bar.clone();
    let mut work = tokio::task::spawn_blocking(move || {
        cairn_bench::run(target, &bench, &mut |live| {
            shown.set_message(progress_line(live));
            shown.set_position((live.part * PARTS as f64) as u64);
            !stopped.load(Ordering::Relaxed)
        })
    });
    let outcome = tokio::select! {
        outcome = &mut work => outcome,
        _ = interrupted() => {
            stop.store(true, Ordering::Relaxed);
            // A target that has stopped answering is left behind by a second signal.
            tokio::select! {
                outcome = &mut work => outcome,
                failure = interrupted() => return Err(failure),
            }
        }
    };
    bar.finish_and_clear();
    let outcome =
        outcome.map_err(|error| Failure::new(ErrorKind::Closed, format!("the measurement broke off: {error}")))?;
    Ok(outcome?)
}

fn progress_line(live: &Live) -> String {
    format!("{}: {:.0}/s, {}/s", live.pass, live.rate, Bytes(live.bandwidth as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_take_the_place_of_pictures_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.svg");
        may_replace(&path).unwrap();
        for (content, fine) in [("", true), ("<svg xmlns", true), ("<sv", false), ("precious data", false)] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(may_replace(&path).is_ok(), fine, "{content}");
        }
    }
}
