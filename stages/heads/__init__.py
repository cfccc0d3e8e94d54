"""One module a head: `build(inputs, classes, knobs)` makes its layers, `fit(data, params, device)` trains it."""
