//! How a device answers beside a measurement: whether what is missing there is its doing.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

const SIZE: usize = 64 << 20;
const BLOCK: usize = 4096;

/// Reads a block of a file of its own, past the page cache, a hundred times a second at most.
pub struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Answers, String>>,
}

/// What the probe met, in milliseconds.
#[derive(Clone, Copy, Default, Debug)]
pub struct Answers {
    /// The longest answer.
    pub longest: f64,
    /// What all answers took beyond [`SHORT`].
    pub lost: f64,
}

/// An answer that takes longer is a pause of the device: limits make up for so long.
pub const SHORT: Duration = Duration::from_millis(50);

/// A block where direct I/O takes it.
#[repr(align(4096))]
struct Block([u8; BLOCK]);

impl Probe {
    /// Writes a file into `dir`, and begins to read it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn start(dir: &Path) -> Result<Self, String> {
        let told = |e: std::io::Error| format!("{}: {e}", dir.display());
        let path = dir.join("probe");
        if !path.exists() {
            std::fs::write(&path, vec![0x5a; SIZE]).map_err(told)?;
            File::open(&path).and_then(|file| file.sync_all()).map_err(told)?;
        }
        let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path).map_err(told)?;
        let stop = Arc::new(AtomicBool::new(false));
        let until = stop.clone();
        Ok(Self { stop, thread: thread::spawn(move || read(&file, &until).map_err(|e| format!("the probe: {e}"))) })
    }

    /// What it met up to now.
    ///
    /// # Errors
    /// When it could not read.
    pub fn stop(self) -> Result<Answers, String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| Err("a thread failed".into()))
    }
}

fn read(file: &File, stop: &AtomicBool) -> std::io::Result<Answers> {
    let mut places = fastrand::Rng::with_seed(1);
    let mut block = Block([0; BLOCK]);
    let mut answers = Answers::default();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let at = places.u64(..(SIZE / BLOCK) as u64) * BLOCK as u64;
        file.read_exact_at(&mut block.0, at)?;
        let took = began.elapsed();
        answers.longest = answers.longest.max(took.as_secs_f64() * 1e3);
        answers.lost += took.saturating_sub(SHORT).as_secs_f64() * 1e3;
        thread::sleep(Duration::from_millis(10).saturating_sub(took));
    }
    Ok(answers)
}
