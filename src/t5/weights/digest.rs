//! Hashes of weights, by which processes compare them.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::component::{VisitParameter, visit_parameters};

/// The first 16 hexadecimal digits of the BLAKE3 hash of all parameters of `module`, but for the one called `without`.
pub(crate) fn weights_digest<M: Module>(module: &M, without: Option<&str>) -> String {
    struct Digest<'a>(blake3::Hasher, Option<&'a str>);
    impl VisitParameter for Digest<'_> {
        fn visit<const D: usize>(&mut self, name: &str, parameter: &Param<Tensor<D>>) {
            if self.1 == Some(name) {
                return;
            }
            self.0.update(name.as_bytes());
            self.0.update_rayon(parameter.val().into_data().as_bytes());
        }
    }
    let mut digest = Digest(blake3::Hasher::new(), without);
    visit_parameters(module, &mut digest);
    digest.0.finalize().to_hex()[..16].to_owned()
}
