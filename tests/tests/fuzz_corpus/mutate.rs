//! Changes of inputs, from a fixed seed.

use fastrand::Rng;

/// Values at which arithmetic and comparisons break.
const EDGES: [u64; 12] = [0, 1, 2, 127, 128, 255, 4095, 4096, 1 << 31, u32::MAX as u64, (1 << 63) - 1, u64::MAX];

/// No input grows beyond this.
const LONGEST: usize = 8192;

pub(crate) struct Mutator<'a> {
    inputs: &'a [Vec<u8>],
    random: Rng,
}

impl<'a> Mutator<'a> {
    pub(crate) fn new(inputs: &'a [Vec<u8>]) -> Self {
        Self { inputs, random: Rng::with_seed(0x0ca1_12f5) }
    }

    /// One of the inputs with one to eight changes.
    pub(crate) fn next(&mut self) -> Vec<u8> {
        let mut input = self.any().to_vec();
        for _ in 0..self.random.usize(1..=8) {
            self.change(&mut input);
        }
        input.truncate(LONGEST);
        input
    }

    fn any(&mut self) -> &'a [u8] {
        &self.inputs[self.random.usize(..self.inputs.len())]
    }

    fn place(&mut self, input: &[u8]) -> usize {
        self.random.usize(..=input.len())
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.place(input);
        let run = at..(at + self.random.usize(1..=32)).min(input.len());
        match self.random.u8(..8) {
            0 if at < input.len() => input[at] ^= 1 << self.random.u8(..8),
            1 if at < input.len() => input[at] = self.random.u8(..),
            2 => input.insert(at, self.random.u8(..)),
            3 => drop(input.drain(run)),
            4 => {
                let copied = input[run].to_vec();
                let to = self.place(input);
                drop(input.splice(to..to, copied));
            }
            5 => {
                let edge = EDGES[self.random.usize(..EDGES.len())];
                let width = 1 << self.random.u8(..4);
                let (little, big) = (edge.to_le_bytes(), edge.to_be_bytes());
                let bytes = if self.random.bool() { &little[..width] } else { &big[8 - width..] };
                input.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
            }
            6 => {
                let other = self.any();
                let from = self.place(other);
                input.truncate(at);
                input.extend(&other[from..]);
            }
            _ => input.truncate(at),
        }
    }
}
