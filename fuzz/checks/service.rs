//! What the daemon takes from strangers: images, and requests. Requests go to its HTTP interface without a network: Block Storage, images and identity, by callers of each role, over a real pool and a
//! real catalog. What must hold stands with [`Service::check`].

use cairn_service::fuzzing::Service;
use std::{cell::OnceCell, path::Path};
use tempfile::TempDir;
use tokio::runtime::Runtime;

struct Site {
    runtime: Runtime,
    service: Service,
    _directory: TempDir,
}

thread_local! {
    static SITE: OnceCell<Site> = const { OnceCell::new() };
}

/// A directory in memory, where there is one, but for a fuzzer, which says where its leavings go.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let in_memory = std::env::var_os("TMPDIR").is_none() && memory.is_dir();
    let parent = if in_memory { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("cairn-fuzz.").tempdir_in(parent).expect("a directory for a service")
}

pub(crate) fn service_requests(input: &[u8]) -> bool {
    SITE.with(|site| {
        let site = site.get_or_init(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let directory = directory();
            let service = runtime.block_on(Service::new(directory.path()));
            Site { runtime, service, _directory: directory }
        });
        site.runtime.block_on(site.service.check(input))
    })
}

pub(crate) fn qcow2(input: &[u8]) -> bool {
    pollster::block_on(cairn_service::fuzzing::qcow2(input))
}
