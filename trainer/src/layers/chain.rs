//! Layers one after another, and around another.

use std::ops::Range;

use super::{Backward, Layer, Parameter, sized};
use crate::error::Error;

/// One link of a chain. A model's gradients travel unit by unit.
pub(crate) struct Unit {
    /// Before the names of its parameters; empty for none.
    name: String,
    layer: Box<dyn Layer>,
    /// Where its parameters lie among the chain's.
    pub(crate) place: Range<usize>,
}

/// Layers of which each takes what the one before gives.
#[derive(Default)]
pub struct Chain {
    units: Vec<Unit>,
    sizes: Option<(usize, usize)>,
    /// What is wrong with how it was put together; said when the model is begun.
    fault: Option<String>,
    /// Outputs of all units but the last.
    between: Vec<Vec<f32>>,
    /// Derivatives by the output of the unit at hand, and by its input.
    derivatives: [Vec<f32>; 2],
}

/// Where the gradients of a chain's units go.
pub(crate) trait Gradients {
    /// Those of this unit, to be added to.
    fn of(&mut self, unit: usize) -> &mut [f32];
    /// They are complete; the last unit's come first.
    fn complete(&mut self, unit: usize) -> Result<(), Error>;
}

impl Chain {
    /// Without layers.
    pub fn new() -> Self {
        Chain::default()
    }

    /// Adds a layer without a name, such as one without parameters.
    #[must_use]
    pub fn then(self, layer: impl Layer + 'static) -> Self {
        self.named("", layer)
    }

    /// Adds a layer whose parameters are called `name.…`.
    #[must_use]
    pub fn named(mut self, name: &str, layer: impl Layer + 'static) -> Self {
        let (before, after) = layer.sizes();
        if let Some((_, given)) = self.sizes
            && given != before
            && self.fault.is_none()
        {
            let place = self.units.len();
            self.fault =
                Some(format!("layer {place} {name:?} takes {before} values, but the one before it gives {given}"));
        }
        self.sizes = Some((self.sizes.map_or(before, |(first, _)| first), after));
        let start = self.units.last().map_or(0, |unit| unit.place.end);
        let length: usize = layer.parameters().iter().map(Parameter::len).sum();
        self.units.push(Unit { name: name.to_owned(), layer: Box::new(layer), place: start..start + length });
        self
    }

    /// Links, in order.
    pub(crate) fn units(&self) -> &[Unit] {
        &self.units
    }

    fn places(&self) -> Vec<Range<usize>> {
        self.units.iter().map(|unit| unit.place.clone()).collect()
    }

    /// Whether it fits together, takes `inputs` and gives `outputs` values a sample.
    pub(crate) fn check(&self, inputs: usize, outputs: usize) -> Result<(), String> {
        if let Some(fault) = self.fault() {
            return Err(fault);
        }
        match self.sizes {
            Some(sizes) if sizes == (inputs, outputs) => {}
            found => {
                let (before, after) = found.unwrap_or_default();
                return Err(format!(
                    "the model takes {before} and gives {after} values a sample, where {inputs} and {outputs} are needed"
                ));
            }
        }
        let parameters = self.parameters();
        let mut names: Vec<_> = parameters.iter().map(|parameter| &parameter.name).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("two parameters are called {:?}", pair[0])),
            None if parameters.is_empty() => Err("the model has no parameters".to_owned()),
            None => Ok(()),
        }
    }

    /// As [`Layer::forward`], with each unit's parameters at a place of their own.
    pub(crate) fn forward_from(
        &mut self,
        count: usize,
        parameters: &[f32],
        places: &[Range<usize>],
        input: &[f32],
        output: &mut [f32],
    ) {
        let last = self.units.len().saturating_sub(1);
        self.between.resize_with(last, Vec::new);
        for (at, unit) in self.units.iter_mut().enumerate() {
            let (before, after) = self.between.split_at_mut(at);
            let input = before.last().map_or(input, Vec::as_slice);
            let target = match after.first_mut() {
                Some(next) => sized(next, count * unit.layer.sizes().1),
                None => &mut *output,
            };
            unit.layer.forward(count, &parameters[places[at].clone()], input, target);
        }
    }

    /// As [`Layer::backward`], with each unit's parameters and gradients at places of their own, and a word when the
    /// gradients are there.
    pub(crate) fn backward_into(
        &mut self,
        pass: Backward<'_>,
        places: &[Range<usize>],
        gradients: &mut dyn Gradients,
    ) -> Result<(), Error> {
        let Backward { count, parameters, input, output, d_output, d_input, .. } = pass;
        let mut wanted = Some(d_input);
        let last = self.units.len().saturating_sub(1);
        for at in (0..self.units.len()).rev() {
            let [above, below] = &mut self.derivatives;
            let unit = &mut self.units[at];
            let d_input = match wanted.take_if(|_| at == 0) {
                Some(d_input) => d_input,
                None => sized(below, count * unit.layer.sizes().0),
            };
            unit.layer.backward(Backward {
                count,
                parameters: &parameters[places[at].clone()],
                input: if at == 0 { input } else { &self.between[at - 1] },
                output: if at == last { output } else { &self.between[at] },
                d_output: if at == last { d_output } else { above },
                d_input,
                gradients: gradients.of(at),
            });
            gradients.complete(at)?;
            self.derivatives.swap(0, 1);
        }
        Ok(())
    }
}

impl Layer for Chain {
    fn sizes(&self) -> (usize, usize) {
        self.sizes.unwrap_or_default()
    }

    fn parameters(&self) -> Vec<Parameter> {
        let named = |unit: &Unit, parameter: Parameter| match unit.name.as_str() {
            "" => parameter,
            name => Parameter { name: format!("{name}.{}", parameter.name), ..parameter },
        };
        let of = |unit: &Unit| unit.layer.parameters().into_iter().map(|one| named(unit, one)).collect::<Vec<_>>();
        self.units.iter().flat_map(of).collect()
    }

    fn fault(&self) -> Option<String> {
        let named = |unit: &Unit| unit.layer.fault().map(|fault| format!("{}: {fault}", unit.name));
        self.fault.clone().or_else(|| self.units.iter().find_map(named))
    }

    fn forward(&mut self, count: usize, parameters: &[f32], input: &[f32], output: &mut [f32]) {
        let places = self.places();
        self.forward_from(count, parameters, &places, input, output);
    }

    fn backward(&mut self, mut pass: Backward<'_>) {
        /// One slice, cut by units.
        struct Together<'a>(&'a mut [f32], &'a [Range<usize>]);
        impl Gradients for Together<'_> {
            fn of(&mut self, unit: usize) -> &mut [f32] {
                &mut self.0[self.1[unit].clone()]
            }
            fn complete(&mut self, _unit: usize) -> Result<(), Error> {
                Ok(())
            }
        }
        let places = self.places();
        let gradients = std::mem::take(&mut pass.gradients);
        let done = self.backward_into(pass, &places, &mut Together(gradients, &places));
        debug_assert!(done.is_ok(), "nothing in it can fail");
    }
}

/// Adds its input to what a chain makes of it (He et al., 2016).
pub struct Residual {
    inner: Chain,
    /// What the chain gave: some layers need it for their backward pass.
    given: Vec<f32>,
}

impl Residual {
    /// Around a chain that gives as many values as it takes.
    pub fn new(inner: Chain) -> Self {
        Residual { inner, given: Vec::new() }
    }
}

impl Layer for Residual {
    fn sizes(&self) -> (usize, usize) {
        self.inner.sizes()
    }

    fn parameters(&self) -> Vec<Parameter> {
        self.inner.parameters()
    }

    fn fault(&self) -> Option<String> {
        let (before, after) = self.sizes();
        let unequal = || format!("a residual chain takes {before} values and gives {after}");
        self.inner.fault().or_else(|| (before != after).then(unequal))
    }

    fn forward(&mut self, count: usize, parameters: &[f32], input: &[f32], output: &mut [f32]) {
        let given = sized(&mut self.given, output.len());
        self.inner.forward(count, parameters, input, given);
        output.copy_from_slice(given);
        super::math::add(input, output);
    }

    fn backward(&mut self, pass: Backward<'_>) {
        let Backward { count, parameters, input, d_output, d_input, gradients, .. } = pass;
        let output = self.given.as_slice();
        self.inner.backward(Backward { count, parameters, input, output, d_output, d_input: &mut *d_input, gradients });
        super::math::add(d_output, d_input);
    }
}
