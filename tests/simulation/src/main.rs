//! `cairn-sim`: runs seeds.
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let n = |i: usize, d: u64| args.get(i).and_then(|s| s.parse().ok()).unwrap_or(d);
    let started = std::time::Instant::now();
    if args.get(1).is_some_and(|a| a == "seed") {
        let (mut ops, mut failed) = (0, 0);
        for seed in n(2, 0)..n(3, n(2, 0) + 1) {
            match cairn_simulation::simulate::simulate(seed) {
                Ok(o) => { ops += o.operations; if args.get(4).is_some() { println!("{seed} {o:?}"); } }
                Err(e) => { println!("{seed}: {}", e.chars().take(900).collect::<String>()); failed += 1; }
            }
        }
        println!("{ops} operations, {failed} failed, {:?}", started.elapsed());
        return;
    }
    let plan = cairn_simulation::explore::Plan { seed: n(1, 0), operations: n(2, 100), stride: (n(3, 1) as usize, 0), recoveries: 20, only: None };
    match cairn_simulation::explore::explore(&plan) {
        Ok(e) => println!("{e:?} {:?}", started.elapsed()),
        Err(e) => println!("{e}"),
    }
}
