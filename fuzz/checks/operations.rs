//! Operations on a pool on a simulated disk, against the model.

pub(crate) fn operations(input: &[u8]) -> bool {
    match cairn_simulation::operations::operations(input) {
        Ok(understood) => understood,
        Err(failure) => panic!("{failure}"),
    }
}
