//! Messages go by themselves: when they are old, and the oldest of a project that has very many.

use std::ops::ControlFlow;

use super::{
    objects::listed,
    records::{Record, now_us},
    settings::Message,
    tx::Tx,
};
use crate::fault::Answer;

/// For how long a message is kept, in microseconds: 30 days.
pub(crate) const MESSAGE_TIME: u64 = 30 * 86_400 * 1_000_000;
/// Most messages of a project.
const MOST: usize = 1000;

impl Tx<'_> {
    /// Writes a message. The oldest of its project go when there are too many.
    pub(crate) fn leave_message(&mut self, message: &Message) -> Answer<()> {
        self.put(message)?;
        let of_project = listed(Message::KIND, Some(&message.project)).bytes();
        for id in self.ids(&of_project)?.into_iter().skip(MOST) {
            self.remove::<Message>(&id)?;
        }
        Ok(())
    }

    /// Takes out up to `limit` that are too old. Answers how many.
    pub(crate) fn expire_messages(&mut self, limit: usize) -> Answer<usize> {
        let all = listed(Message::KIND, None);
        let after = all.clone().newest_first(now_us().saturating_sub(MESSAGE_TIME)).bytes();
        let mut ids = Vec::new();
        self.scan(&all.bytes(), Some(&after), |_, id| {
            ids.push(String::from_utf8_lossy(id).into_owned());
            Ok(if ids.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        for id in &ids {
            self.remove::<Message>(id)?;
        }
        Ok(ids.len())
    }
}
