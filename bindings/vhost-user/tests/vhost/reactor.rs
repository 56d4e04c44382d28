//! A part of a test that runs on the server's own thread: it acts between the server's tasks, at moments that it can count.

use cairn_engine::Pool;
use pollster::block_on;
use std::{future::poll_fn, sync::mpsc, task::Poll, thread};

/// Runs on the reactor's thread as often as it can, each time when every other task that was ready has run; until it says that it is enough.
pub(crate) async fn between_tasks(mut enough: impl FnMut() -> bool) {
    poll_fn(|cx| {
        if enough() {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Keeps the reactor busy while `work` is done: what that sends is found all at once.
pub(crate) fn while_busy(pool: &Pool, work: impl FnOnce()) {
    let ((tell, told), (let_go, wait)) = (mpsc::channel(), mpsc::channel::<()>());
    let pool = pool.clone();
    let busy = thread::spawn(move || {
        block_on(pool.run(move |_| async move {
            tell.send(()).unwrap();
            // Ends with an error, when `let_go` is dropped.
            wait.recv().ok();
        }))
    });
    told.recv().unwrap();
    work();
    drop(let_go);
    busy.join().unwrap().unwrap();
}
