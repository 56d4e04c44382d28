//! vhost-user-blk sockets.

use cairn_bench::{Bench, Target};
use cairn_engine::ErrorKind;
use cairn_vhost_user::Server;
use pollster::block_on;

use crate::{
    inside::pool,
    site::{every_pattern, filled_and_read_again, go, pattern},
};

#[test]
fn every_pattern_is_carried_out_and_verified() {
    let (directory, pool) = pool();
    let server = block_on(Server::start(&pool, directory.path().join("vhost"), Default::default())).unwrap();
    let socket = block_on(server.export("db")).unwrap();
    let target = || Target::VhostUser(socket.clone());
    for jobs in [1, 3] {
        every_pattern(target, jobs);
    }
    filled_and_read_again(target);
    let large = Bench { block: 2 << 20, depth: 64, ..pattern("randrw", 200) };
    assert_eq!(go(target(), &large).unwrap().total.requests, 200);
    let deep = go(target(), &Bench { depth: 400, ..pattern("randread", 1) }).unwrap_err();
    assert!(deep.kind() == ErrorKind::Invalid && deep.to_string().contains("depth"), "{deep}");
    let wide = go(target(), &Bench { jobs: 200, ..pattern("randread", 1) }).unwrap_err();
    assert!(wide.kind() == ErrorKind::Invalid && wide.to_string().contains("jobs"), "{wide}");
    block_on(server.stop()).unwrap();
    assert!(go(target(), &pattern("randread", 1)).is_err());
    block_on(pool.close()).unwrap();
}

#[test]
fn a_snapshot_is_read_only() {
    let (directory, pool) = pool();
    drop(block_on(async { pool.volume("db").await.unwrap().snapshot("s").await }).unwrap());
    let server = block_on(Server::start(&pool, directory.path().join("vhost"), Default::default())).unwrap();
    let socket = block_on(server.export("db@s")).unwrap();
    assert_eq!(
        go(Target::VhostUser(socket.clone()), &pattern("randwrite", 1)).unwrap_err().kind(),
        ErrorKind::ReadOnly
    );
    go(Target::VhostUser(socket), &pattern("randread", 100)).unwrap();
    block_on(server.stop()).unwrap();
    block_on(pool.close()).unwrap();
}

#[test]
fn a_back_end_that_goes_away_ends_the_run() {
    let (directory, pool) = pool();
    let server = block_on(Server::start(&pool, directory.path().join("vhost"), Default::default())).unwrap();
    let socket = block_on(server.export("db")).unwrap();
    let mut stop = Some(server);
    let mut watch = |live: &cairn_bench::Live| {
        if live.requests > 0
            && let Some(server) = stop.take()
        {
            block_on(server.stop()).unwrap();
        }
        true
    };
    let bench = Bench { requests: None, runtime: Some(std::time::Duration::from_secs(3600)), ..pattern("randread", 1) };
    let error = cairn_bench::run(Target::VhostUser(socket), &bench, &mut watch).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    block_on(pool.close()).unwrap();
}
