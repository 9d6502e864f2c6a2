"""Exact packed net -> integer net: activations of 8, 4 or 2 bits, from pixels to logits. Loads no torch.

`conversion` walks the operations of the exact net in order, with the table of `operations`. Scales, shifts and bounds
are deferred (`form`) until integers are needed, and then computed with one rounding (`multipliers`). The step of a
rounded value follows from what the exact net computes on some images (`ranges`). Each requantization is compared with
real arithmetic over all integers (`multipliers`).
"""
