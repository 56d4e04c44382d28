//! Images in the order of lists: the newest first.

use std::{
    cmp::{Ordering, Reverse},
    ops::ControlFlow,
};

use crate::{
    block::{Block, Caller},
    catalog::Image,
    fault::Answer,
};

/// The place of an image in lists.
fn place(image: &Image) -> (Reverse<u64>, &str) {
    (Reverse(image.created_us), &image.id)
}

/// The order of lists that are asked for no other.
pub(crate) fn newest_first(a: &Image, b: &Image) -> Ordering {
    place(a).cmp(&place(b))
}

impl Block {
    /// All images that the caller may read, newest first.
    pub(crate) fn images(&self, caller: &Caller) -> Answer<Vec<Image>> {
        let mut images = Vec::new();
        self.each_image(caller, None, |image| {
            images.push(image);
            ControlFlow::Continue(())
        })?;
        Ok(images)
    }

    /// Hands out the images that the caller may read, newest first, those that come after `after`, until `take` breaks. Of the project's own
    /// ones no more are read than are handed out.
    pub(crate) fn each_image(
        &self,
        caller: &Caller,
        after: Option<&Image>,
        mut take: impl FnMut(Image) -> ControlFlow<()>,
    ) -> Answer<()> {
        let tx = self.inner.catalog.read();
        let project = caller.project_of_list(None);
        // Those of others that everybody may read: what leads to them is in no order, and there are as many as administrators have published.
        let mut public = match project {
            Some(_) => tx.found::<Image>(&Image::for_everybody())?,
            None => Vec::new(),
        };
        public.retain(|image| {
            Some(image.project.as_str()) != project && after.is_none_or(|after| newest_first(after, image).is_lt())
        });
        // The next one last.
        public.sort_by(|a, b| newest_first(b, a));
        let mut goes_on = true;
        tx.walk(project, after.map(|image| (image.created_us, image.id.as_str())), |image: Image| {
            while let Some(other) = public.pop_if(|other| newest_first(other, &image).is_lt()) {
                if take(other).is_break() {
                    goes_on = false;
                    return ControlFlow::Break(());
                }
            }
            let flow = take(image);
            goes_on = flow.is_continue();
            flow
        })?;
        if goes_on {
            let _end = public.into_iter().rev().try_for_each(take);
        }
        Ok(())
    }
}
