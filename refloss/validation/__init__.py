"""What is accepted, and the errors for the rest: each names the argument, where, and what was due.

Arrays are copied (the caller's are neither changed nor kept), to float64 in C order, so that the same numbers give the
same bits whatever their strides or byte order were.
"""

from refloss.validation.arrays import as_array as as_array
from refloss.validation.arrays import indexed as indexed
from refloss.validation.arrays import matrix as matrix
from refloss.validation.arrays import real_array as real_array
from refloss.validation.functions import continuation as continuation
from refloss.validation.functions import per_angle as per_angle
from refloss.validation.inputs import bias as bias
from refloss.validation.inputs import class_weights as class_weights
from refloss.validation.inputs import features_and_weights as features_and_weights
from refloss.validation.inputs import logits as logits
from refloss.validation.inputs import no_zero_rows as no_zero_rows
from refloss.validation.inputs import upstream_gradient as upstream_gradient
from refloss.validation.parameters import angle_margin as angle_margin
from refloss.validation.parameters import boolean as boolean
from refloss.validation.parameters import cosine_offset as cosine_offset
from refloss.validation.parameters import count as count
from refloss.validation.parameters import fraction as fraction
from refloss.validation.parameters import function as function
from refloss.validation.parameters import integer as integer
from refloss.validation.parameters import multiplier as multiplier
from refloss.validation.parameters import not_negative as not_negative
from refloss.validation.parameters import one_of as one_of
from refloss.validation.parameters import positive as positive
from refloss.validation.parameters import real_number as real_number
from refloss.validation.parameters import weights_tuple as weights_tuple
from refloss.validation.results import finite_gradients as finite_gradients
from refloss.validation.results import finite_logits as finite_logits
from refloss.validation.results import finite_losses as finite_losses
from refloss.validation.streams import Stream as Stream
from refloss.validation.streams import stream as stream
from refloss.validation.streams import target_of_gradient as target_of_gradient
from refloss.validation.targets import edge_map as edge_map
from refloss.validation.targets import flat_targets as flat_targets
from refloss.validation.targets import targets as targets
from refloss.validation.targets import unmasked_targets as unmasked_targets
