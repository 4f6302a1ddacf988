//! Text from a trained model: token after token, each chosen by the probabilities that the model gives it.

use crate::config;
use crate::data::Vocabulary;
use crate::error::{Error, Fault};
use crate::layers::math;
use crate::model::Network;
use crate::random::{self, Purpose};

/// The prompt and what the model makes of it. The same model, prompt and seed give the same text on every machine.
///
/// # Errors
/// [`Error::Config`] where the prompt has characters that the training text has not.
pub(crate) fn generate(
    model: &mut Network,
    vocabulary: &Vocabulary,
    generate: &config::Generate,
) -> Result<String, Error> {
    let mut tokens = prompt(vocabulary, generate)?;
    let (context, classes) = (model.task().positions, model.task().classes);
    let mut rng = random::stream(generate.seed, Purpose::Generate);
    let inverse = (1.0 / generate.temperature) as f32;
    let mut window = vec![0.0; context];
    for _ in 0..generate.tokens {
        // As many of the last tokens as the model can see; what follows them no position looks at.
        let seen = &tokens[tokens.len().saturating_sub(context)..];
        window.fill(0.0);
        window.iter_mut().zip(seen).for_each(|(place, token)| *place = *token as f32);
        let last = seen.len() - 1;
        let logits = &model.forward(1, &window)[last * classes..(last + 1) * classes];
        let greatest = logits.iter().fold(f32::NEG_INFINITY, |greatest, logit| greatest.max(*logit));
        let likely: Vec<f32> = logits.iter().map(|logit| math::exponential((logit - greatest) * inverse)).collect();
        tokens.push(choose(&likely, random::unit(&mut rng)));
    }
    Ok(vocabulary.decode(&tokens))
}

/// At least one token.
pub(crate) fn prompt(vocabulary: &Vocabulary, generate: &config::Generate) -> Result<Vec<u32>, Error> {
    let Some(text) = &generate.prompt else { return Ok(vec![0]) };
    vocabulary.encode(text).map_err(|character| {
        let message = format!("the text that was learned from has no {character:?}");
        let fault = Fault { place: "generate.prompt".to_owned(), line: None, field: String::new(), message };
        Error::Config { faults: vec![fault] }
    })
}

/// The token at which the sum of what is before it passes the share `at` of all.
fn choose(likely: &[f32], at: f64) -> u32 {
    let mut left = at * likely.iter().map(|one| f64::from(*one)).sum::<f64>();
    for (token, one) in likely.iter().enumerate() {
        left -= f64::from(*one);
        if left < 0.0 {
            return token as u32;
        }
    }
    likely.len().saturating_sub(1) as u32
}

#[cfg(test)]
mod tests {
    use super::choose;

    #[test]
    fn tokens_are_chosen_by_their_share() {
        let likely = [1.0, 0.0, 2.0, 1.0];
        let chosen = [0.0, 0.2, 0.26, 0.5, 0.74, 0.76, 0.999].map(|at| choose(&likely, at));
        assert_eq!(chosen, [0, 0, 2, 2, 2, 3, 3]);
    }
}
