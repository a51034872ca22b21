//! What [`export!`](crate::export) expands to. Not for authors.

#[cfg(target_family = "wasm")]
pub use component::{Adapter, Exported};

use crate::Machine;

/// Exports a [`Machine`](crate::Machine) as the plugin that this crate is; once in a crate of type
/// `cdylib`. Outside Wasm it only checks what the machine says about itself.
#[macro_export]
macro_rules! export {
    ($machine:ty) => {
        const _: () = $crate::export::check::<$machine>();

        #[cfg(target_family = "wasm")]
        const _: () = {
            ::std::thread_local! {
                static MACHINE: ::std::cell::RefCell<$machine> =
                    ::std::cell::RefCell::new(::std::default::Default::default());
            }

            impl $crate::export::Exported for $machine {
                fn slot() -> &'static ::std::thread::LocalKey<::std::cell::RefCell<Self>> {
                    &MACHINE
                }
            }

            type Plugin = $crate::export::Adapter<$machine>;
    $crate::wit::export_plugin!(Plugin with_types_in $crate::wit);
        };
    };
}

/// Fails to compile if what a machine says about itself breaks the contract.
pub const fn check<M: Machine>() {
    crate::machine::check::<M>();
}

#[cfg(target_family = "wasm")]
mod component {
    use crate::packed::{self, PackedBatch};
    use crate::wit::exports::kontiki::plugin::machine as wit;
    use crate::wit::kontiki::plugin::host;
    use crate::{Machine, SnapshotReader, SnapshotWriter, log};
    use std::cell::RefCell;
    use std::marker::PhantomData;
    use std::thread::LocalKey;

    /// A machine with the place where the one instance of it lives.
    pub trait Exported: Machine {
        /// Where it lives.
        fn slot() -> &'static LocalKey<RefCell<Self>>;
    }

    /// Puts a machine behind the generated trait.
    pub struct Adapter<M>(PhantomData<M>);

    impl<M: Exported> wit::Guest for Adapter<M> {
        fn describe() -> wit::Description {
            report_panics();
            wit::Description {
                name: M::NAME.to_owned(),
                version: M::VERSION.to_owned(),
                state_format: M::STATE_FORMAT,
                reads_formats: M::READS_FORMATS.to_vec(),
            }
        }

        fn apply(batch: wit::Batch) -> wit::Answers {
            let batch = PackedBatch {
                data: &batch.data,
                ends: &batch.ends,
                indexes: &batch.indexes,
                times: &batch.times,
            };
            let answers = M::slot()
                .with_borrow_mut(|machine| packed::apply(machine, &batch, host::next_entry));
            wit::Answers {
                data: answers.data,
                ends: answers.ends,
                codes: answers.codes,
            }
        }

        fn query(request: Vec<u8>) -> Result<Vec<u8>, wit::Reject> {
            M::slot()
                .with_borrow(|machine| machine.query(&request))
                .map(|answer| answer.into_bytes())
                .map_err(|reject| wit::Reject {
                    reason: reject.into_reason(),
                })
        }

        fn save(writer: &wit::Writer) -> Result<(), String> {
            let snapshot = SnapshotWriter::new(writer);
            M::slot()
                .with_borrow(|machine| machine.save(&snapshot))
                .map_err(|error| error.to_string())
        }

        fn load(reader: &wit::Reader) -> Result<(), String> {
            let snapshot = SnapshotReader::new(reader);
            let machine = M::load(&snapshot).map_err(|error| error.to_string())?;
            M::slot().replace(machine);
            Ok(())
        }
    }

    /// Sends the text of a panic to the node's log, which would otherwise show a bare trap.
    fn report_panics() {
        std::panic::set_hook(Box::new(|panic| log::error(panic)));
    }
}
