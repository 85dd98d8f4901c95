"""What searches are compared to: every name scored by the stock forward, with nothing shared, cached or pruned."""

import numpy as np
import torch


def brute_force(model, mentions, names):
    """float32 `[mentions, names]`: log-probabilities by the model's own forward, one name after the other's length."""
    scores = np.zeros((len(mentions), len(names)), dtype=np.float32)
    for i, mention in enumerate(mentions):
        for length in {len(name) for name in names}:
            places = [place for place, name in enumerate(names) if len(name) == length]
            rows = torch.tensor([[*mention.prefix, *names[place]] for place in places])
            inputs = {"input_ids": rows[:, :-1]}
            if model.config.is_encoder_decoder:
                source = torch.tensor([mention.source]).expand(len(rows), -1)
                inputs = {"input_ids": source, "decoder_input_ids": rows[:, :-1]}
            with torch.no_grad():
                logits = model(**inputs).logits
            log_probs = logits.log_softmax(-1).gather(2, rows[:, 1:, None]).squeeze(2)
            scores[i, places] = log_probs[:, len(mention.prefix) - 1 :].sum(1).numpy()
    return scores


def assert_true(found, scores, names, ranking):
    """Whatever is found has its true log-probability and length, stands in order and only once; exact or not."""
    values = found.log_probs if ranking == "sum" else found.mean_log_probs
    for row, line in enumerate(found.names):
        there = line >= 0
        assert not there[there.sum() :].any()
        assert len(set(line[there].tolist())) == there.sum()
        np.testing.assert_allclose(found.log_probs[row, there], scores[row, line[there]], atol=1e-4)
        assert found.lengths[row, there].tolist() == [len(names[name]) for name in line[there]]
        assert (np.diff(values[row, there]) <= 0).all()
        assert (found.log_probs[row, ~there] == -np.inf).all()
        assert (found.lengths[row, ~there] == 0).all()


def assert_top(found, scores, names, ranking="sum", rows=slice(None)):
    """`found` is true and, for the mentions `rows`, the whole top k; names equally good may change places."""
    assert_true(found, scores, names, ranking)
    if ranking == "mean":
        scores = scores / np.array([len(name) for name in names], dtype=np.float32)
    k = min(found.names.shape[1], len(names))
    best = np.sort(scores[rows], axis=1)[:, ::-1][:, :k]
    assert (found.names[rows, :k] >= 0).all()
    np.testing.assert_allclose(np.take_along_axis(scores[rows], found.names[rows, :k], 1), best, atol=1e-4)
