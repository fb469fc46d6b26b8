//! The classes of a trace as spec vectors, which is what a matcher compares.

use super::Trace;
use super::trace::CLASSES;

/// The spec of a client: one dimension for each class that any client meets, 1 where it does.
#[derive(Debug)]
pub(super) struct Specs {
    pub(super) dimensions: usize,
    /// By set of classes, one after the other.
    table: Vec<f64>,
    /// The dimension of each class.
    dimension_of: [Option<usize>; CLASSES],
}

impl Specs {
    pub(super) fn new(trace: &Trace) -> Self {
        let mut dimension_of = [None; CLASSES];
        let known = trace.all_classes();
        let classes = (0..CLASSES).filter(|class| known >> class & 1 == 1);
        let mut count = 0;
        for (dimension, class) in classes.enumerate() {
            dimension_of[class] = Some(dimension);
            count = dimension + 1;
        }
        let dimensions = count.max(1);
        let mut table = vec![0.0; dimensions << CLASSES];
        for (set, spec) in table.chunks_exact_mut(dimensions).enumerate() {
            for (class, dimension) in dimension_of.iter().enumerate() {
                if let Some(dimension) = dimension.filter(|_| set >> class & 1 == 1) {
                    spec[dimension] = 1.0;
                }
            }
        }
        Self { dimensions, table, dimension_of }
    }

    pub(super) fn of(&self, classes: u16) -> &[f64] {
        &self.table[usize::from(classes) * self.dimensions..][..self.dimensions]
    }

    /// The requirement of this class, which some client meets.
    pub(super) fn unit_vector(&self, class: u32) -> Vec<f64> {
        let mut vector = vec![0.0; self.dimensions];
        let dimension = self.dimension_of[class as usize].expect("the job list was checked");
        vector[dimension] = 1.0;
        vector
    }
}
