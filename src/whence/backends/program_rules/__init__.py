"""Backward rules for every framework that can lay a function out as a program; no framework is imported here.

A framework is joined to the engine by an adapter of three parts:

1. **A layout**: a function traced at some leaves becomes a `Program`, a flat list of `Step`s of numbered variables.
   Calls are entered, loops unrolled, and what depends on no leaf stays in the list (it is run once per way back).
   Weights are `given` variables, numbers that belong to the program itself (an ε, the 0 of max(x, 0), axes) are
   `literals`: what is recognised depends on them, so they are part of the key. Of each step the layout tells

   - `operation`: its name in the framework, and `kind`: one of `kinds.KINDS`, "" where nothing fits (it is refused
     by that name). For the kinds that say so, `settings`: `axes` of reductions, transposes and broadcasts;
     `channels` of `dot` and `convolution`: for the position of each input that may be the weight, the pairs (axis of
     the output, axis of the weight) of its units; `window` of average pooling; `piecewise`; `power` (0.5, −0.5).
     Operands are laid out as NumPy broadcasts them.
   - `again(values) -> outputs`: the operation with other values of its inputs, differentiable by the framework. Its
     inputs may be replaced by arrays of the same shape and dtype: a mask or a weight is an input, never closed over.
   - `text`: all that tells it from other steps (attributes, shapes), `place` (a line of the user's code) and `module`
     (the layer it belongs to, by the model's own name, with dots).
   - A function of one array, element by element, that is one operation elsewhere (silu, softplus) is one step of the
     kind "call"; the engine finds out whether it is a rectifier. With a derivative of its own it is a "cell".
   - An operation that the framework has whole may say so: "relu", "softmax", "log_softmax", "logsumexp", "batch_norm"
     (settings: axis), "window_maximum".

   `recognise.recognised(program, functions)` then joins what is written out: rectifiers by masks and choices, GELU,
   softmax and its kin, norms, means, batch norms, and the biases of layers. Nothing is taken for a norm or a softmax
   that is not one on random numbers.

2. **Functions**: the array functions of `functions.Functions`, among them `vjp` and `jvp` of a step.

3. **A machine** (`ruled.Machine`): `traced` (program, given values, a key: equal keys are equal programs), `engine`
   (remembers what was made for a key), `needed` (which values a way back looks at; all is a right answer), `ones`
   and `blank`.

Then `ProgramRuled(machine, function, leaves, rules, names)` is the answer to `Backend.ruled`.
"""

from whence.backends.program_rules.functions import Functions as Functions
from whence.backends.program_rules.functions import Type as Type
from whence.backends.program_rules.program import Program as Program
from whence.backends.program_rules.program import Step as Step
from whence.backends.program_rules.recognise import recognised as recognised
from whence.backends.program_rules.ruled import Machine as Machine
from whence.backends.program_rules.ruled import ProgramRuled as ProgramRuled
from whence.backends.program_rules.ruled import Traced as Traced
