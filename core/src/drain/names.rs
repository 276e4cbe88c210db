//! The names of a period's addresses: found once, for the profiles of every kind.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use everprof_probe::sample::{Frame, frames};

use super::period::Period;
use crate::symbolize::{Module, SymbolFrame, Symbolizer};

/// Every native address of a period, by its epoch.
#[derive(Debug, Default)]
pub(super) struct Names<'p> {
    by_address: HashMap<(u32, u64), Named<'p>>,
    /// Modules of which no address has a real name.
    nameless: HashSet<&'p Module>,
}

/// One address.
#[derive(Debug)]
pub(super) struct Named<'p> {
    /// The module that held it; none for code outside of modules.
    pub(super) module: Option<&'p Module>,
    /// Its functions, innermost first; none where they are not known.
    pub(super) symbols: Arc<[SymbolFrame]>,
}

impl<'p> Names<'p> {
    /// Names every address of the period, module by module, so that each file is read once.
    pub(super) fn of(period: &'p Period, symbolizer: &mut Symbolizer) -> Self {
        let mut by_module: BTreeMap<(u32, u64), (&Module, Vec<u64>)> = BTreeMap::new();
        let mut by_address = HashMap::new();
        let mut seen = HashSet::new();
        for stack in 0..period.sums.stack_count() {
            let (epoch, words) = period.sums.stack(stack);
            for frame in frames(words) {
                let Frame::Native(address) = frame else { continue };
                if !seen.insert((epoch, address)) {
                    continue;
                }
                match period.module(epoch, address) {
                    Some(module) => {
                        by_module
                            .entry((epoch, module.start))
                            .or_insert((module, Vec::new()))
                            .1
                            .push(address);
                    }
                    None => {
                        _ = by_address
                            .insert((epoch, address), Named { module: None, symbols: Arc::default() })
                    }
                }
            }
        }
        let (mut nameless, mut is_named) = (HashSet::new(), HashSet::new());
        for ((epoch, _), (module, addresses)) in by_module {
            let symbols = symbolizer.resolve(module, &addresses);
            if symbols.iter().flat_map(|symbols| symbols.iter()).any(SymbolFrame::is_symbol) {
                is_named.insert(module);
            }
            nameless.insert(module);
            let named = symbols.into_iter().map(|symbols| Named { module: Some(module), symbols });
            by_address.extend(addresses.into_iter().map(|address| (epoch, address)).zip(named));
        }
        nameless.retain(|module| !is_named.contains(module));
        Self { by_address, nameless }
    }

    /// Whether no address of the module has a real name.
    pub(super) fn is_nameless(&self, module: &Module) -> bool {
        self.nameless.contains(module)
    }

    /// One address.
    pub(super) fn get(&self, epoch: u32, address: u64) -> Option<&Named<'p>> {
        self.by_address.get(&(epoch, address))
    }
}
