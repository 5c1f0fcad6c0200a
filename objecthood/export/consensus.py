"""The consensus of normalised cuts (`nn.consensus_cut`), and clusters of learned affinity
(`nn.pairwise_affinity`), in ONNX operators.

ONNX has neither eigenvectors nor clustering, so each step is an algorithm of matrix products: eigenvectors by
inverse orthogonal iteration (Golub and Van Loan 2013, section 8.2) with a blocked Gauss-Jordan inverse,
Gram-Schmidt, and Jacobi rotations in the parallel order of Brent and Luk (1985); k-means with k-means++ from
stored uniform numbers, all partitions in one batch; average linkage by merging all reciprocal nearest
neighbours at once (Bruynooghe 1978), which gives the same tree.

Differences from `nn.consensus_cut`: float32 throughout; k-means++ draws other random numbers; among equal
agreements a symmetric hash of the two cells decides.
"""

# onnxscript compiles these functions from their source: shapes are documented in words, as it reads no
# jaxtyping, and names it does not know stay unresolved.
# mypy: ignore-errors

from __future__ import annotations

from onnxscript import opset18 as op
from onnxscript import script

OPSET = 18
BLOCK = 16
"""Side of the pivots of the inverse."""
VECTORS = 32
"""Vectors of the iteration; at most half of them are used."""
SHIFT = 3e-5
"""Added to 1 - eigenvalue before the inverse: smaller than the gaps that matter, larger than rounding."""
ITERATIONS = 10
ROTATIONS = 5 * (VECTORS - 1)
"""Rounds of Jacobi rotations: five sweeps over all pairs of vectors."""
GOLDEN = 0.6180339
HASH = 1e-4
"""Scale of the hash that breaks ties; agreements differ by at least one partition, 1/36."""
DOUBLINGS = 12
"""Steps in which every cell finds its root: trees of up to 2^12 cells."""


@script(default_opset=op)
def affinities(scales, direction, constant, mixing, temperatures, reaches, tolerances):
    """Weights [views, cells, cells] (`normalised_cut.affinity`) of unit embeddings [scales, rows, columns,
    dim]; the cosines of a view are those of the scales, in the shares `mixing` [views, scales]. The log odds
    of objects are `direction` [dim, or 1 of 0] times the first embedding plus `constant`."""
    number, rows, columns, dim = op.Split(op.Shape(scales), num_outputs=4)
    cells = op.Reshape(scales, op.Concat(number, rows * columns, dim, axis=0))
    cosines = op.MatMul(cells, op.Transpose(cells, perm=[0, 2, 1]))
    cosines = op.MatMul(mixing, op.Reshape(cosines, op.Concat(number, [-1], axis=0)))
    cosines = op.Reshape(cosines, op.Concat([-1], rows * columns, rows * columns, axis=0))
    index = op.Range(0, op.Squeeze(rows * columns), 1)
    row = op.Cast(op.Unsqueeze(index / columns, [1]), to=1)
    column = op.Cast(op.Unsqueeze(index - (index / columns) * columns, [1]), to=1)
    down = row - op.Transpose(row, perm=[1, 0])
    right = column - op.Transpose(column, perm=[1, 0])
    squares = (down * down + right * right) / op.Cast(rows * columns, to=1)
    first = op.Gather(cells, 0, axis=0)
    objects = op.Sigmoid(op.ReduceSum(first * direction, [1]) + constant)
    tolerant = 1.0 - tolerances * op.Min(objects, op.Transpose(objects, perm=[1, 0]))
    return op.Exp((cosines - 1.0) / temperatures * tolerant - squares / (2.0 * reaches * reaches))


@script(default_opset=op)
def inverses(matrices):
    """Inverses of symmetric positive definite matrices [views, n, n], n a multiple of `BLOCK`, by
    Gauss-Jordan elimination: an update of rank `BLOCK` for every block of rows and columns."""
    size = op.Gather(op.Shape(matrices), 1)
    identity = op.EyeLike(op.Gather(matrices, 0, axis=0))
    small = identity[0:BLOCK, 0:BLOCK]
    result = op.Identity(matrices)
    for step in range(size / BLOCK):
        first = op.Unsqueeze(step * BLOCK, [0])
        end = first + BLOCK
        unit = op.Slice(identity, first, end, [1])
        columns = op.Slice(result, first, end, [2])
        rows = op.Slice(result, first, end, [1])
        pivot = op.Slice(rows, first, end, [2])
        for inner in range(BLOCK):
            begin = op.Unsqueeze(inner, [0])
            one = op.Slice(small, begin, begin + 1, [1])
            column = op.Slice(pivot, begin, begin + 1, [2])
            row = op.Slice(pivot, begin, begin + 1, [1])
            corner = op.Slice(row, begin, begin + 1, [2])
            pivot = pivot - (column - one) * ((row + op.Transpose(one, perm=[1, 0])) / corner)
        right = op.MatMul(pivot, rows + op.Transpose(unit, perm=[1, 0]))
        result = result - op.MatMul(columns - unit, right)
    return result


@script(default_opset=op)
def orthonormal(vectors):
    """Gram-Schmidt, twice, of the rows of [views, `VECTORS`, n], in their order."""
    identity = op.EyeLike(op.ConstantOfShape(op.Constant(value_ints=[VECTORS, VECTORS])), dtype=1)
    result = vectors * 0.0
    for index in range(VECTORS):
        begin = op.Unsqueeze(index, [0])
        vector = op.Slice(vectors, begin, begin + 1, [1])
        overlap = op.ReduceSum(result * vector, [2])
        vector = vector - op.ReduceSum(result * overlap, [1])
        overlap = op.ReduceSum(result * vector, [2])
        vector = vector - op.ReduceSum(result * overlap, [1])
        vector = vector / op.ReduceL2(vector, [2])
        result = result + vector * op.Slice(identity, begin, begin + 1, [1])
    return result


@script(default_opset=op)
def jacobi(matrices, swap, order, parity):
    """Eigenvalues [views, n] and eigenvectors (columns) of small symmetric matrices [views, n, n].

    `swap` [n, n] exchanges the two of every pair of neighbours, which a round rotates; `order` [n, n]
    permutes before the next round; `parity` [n] is 1 and -1 in turn.
    """
    identity = op.EyeLike(swap)
    rotated = op.Identity(matrices)
    vectors = matrices * 0.0 + identity
    for _ in range(ROTATIONS):
        diagonal = op.ReduceSum(rotated * identity, [2], keepdims=0)
        beside = op.ReduceSum(rotated * swap, [2], keepdims=0)
        gap = op.MatMul(diagonal, swap) - diagonal
        sign = op.Where(gap == 0.0, parity + gap, op.Sign(gap))
        tangent = 2.0 * beside * sign / (op.Abs(gap) + op.Sqrt(gap * gap + 4.0 * beside * beside) + 1e-30)
        cosine = 1.0 / op.Sqrt(1.0 + tangent * tangent)
        rotation = identity * op.Unsqueeze(cosine, [2]) + swap * op.Unsqueeze(cosine * tangent, [2])
        rotation = op.MatMul(rotation, order)
        rotated = op.MatMul(op.Transpose(rotation, perm=[0, 2, 1]), op.MatMul(rotated, rotation))
        vectors = op.MatMul(vectors, rotation)
    values = op.ReduceSum(rotated * identity, [2], keepdims=0)
    return values, vectors


@script(default_opset=op)
def walk_vectors(weights, swap, order, parity):
    """Largest eigenvalues [views, `VECTORS`] of the random walk and their vectors [views, cells, `VECTORS`],
    descending, the constant one first (`normalised_cut.random_walk_vectors`)."""
    degrees = op.ReduceSum(weights, [2])
    scale = 1.0 / op.Sqrt(degrees)
    identity = op.EyeLike(op.Gather(weights, 0, axis=0))
    laplacian = identity - weights * scale * op.Transpose(scale, perm=[0, 2, 1])
    cells = op.Slice(op.Shape(weights), [1], [2])
    more = (cells + (BLOCK - 1)) / BLOCK * BLOCK - cells
    none = [0, 0, 0, 0]
    wide = op.Pad(laplacian - identity, op.Concat(none, more, more, axis=0))
    wide = wide + (1.0 + SHIFT) * op.EyeLike(op.Gather(wide, 0, axis=0))
    inverse = op.Slice(inverses(wide), [0, 0], op.Concat(cells, cells, axis=0),
                       [1, 2])  # fmt: skip
    number = op.Cast(op.Range(1, op.Squeeze(cells) + 1, 1), to=1)
    which = op.Cast(op.Range(1, VECTORS, 1), to=1)
    start = op.Sin(op.Unsqueeze(number, [0]) * 12.9898 + op.Unsqueeze(which, [1]) * 78.233) * 437.58
    start = op.Unsqueeze(start - op.Floor(start) - 0.5, [0]) + 0.0 * op.Transpose(degrees, perm=[0, 2, 1])
    basis = orthonormal(op.Concat(op.Transpose(op.Sqrt(degrees), perm=[0, 2, 1]), start, axis=1))
    for _ in range(ITERATIONS):
        basis = orthonormal(op.MatMul(basis, inverse))
    quotients = op.MatMul(op.MatMul(basis, laplacian), op.Transpose(basis, perm=[0, 2, 1]))
    gaps, rotation = jacobi(quotients, swap, order, parity)
    gaps, ranks = op.TopK(gaps, op.Constant(value_ints=[VECTORS]), largest=0)
    chosen = op.OneHot(ranks, op.Constant(value_ints=[VECTORS]), [0.0, 1.0])
    vectors = op.MatMul(op.MatMul(chosen, op.Transpose(rotation, perm=[0, 2, 1])), basis)
    return 1.0 - gaps, op.Transpose(vectors, perm=[0, 2, 1]) * scale


@script(default_opset=op)
def initial_centres(points, draws):
    """k-means++ centres [partitions, clusters, dim] of points [partitions, cells, dim] from uniform numbers
    `draws` [partitions, clusters]."""
    clusters = op.Gather(op.Shape(draws), 1)
    cells = op.Gather(op.Shape(points), 1)
    squares = op.ReduceSumSquare(points, [2], keepdims=0)
    nearest = squares * 0.0 + 1e30
    chance = squares * 0.0 + 1.0
    centres = op.Unsqueeze(draws, [2]) * 0.0 + 0.0 * points[:, 0:1, :]
    places = op.EyeLike(op.MatMul(op.Transpose(draws, perm=[1, 0]), draws))
    for step in range(clusters):
        begin = op.Unsqueeze(step, [0])
        draw = op.Slice(draws, begin, begin + 1, [1])
        sums = op.CumSum(chance, 1)
        below = op.Cast(sums <= draw * sums[:, -1:], to=7)
        index = op.Min(op.ReduceSum(below, [1]), cells - 1)
        chosen = op.GatherND(points, index, batch_dims=1)
        products = op.Squeeze(op.MatMul(points, op.Unsqueeze(chosen, [2])), [2])
        distance = squares - 2.0 * products + op.ReduceSumSquare(chosen, [1])
        nearest = op.Min(nearest, op.Max(distance, 0.0))
        chance = nearest + 1e-9 * op.ReduceMax(nearest, [1]) + 1e-12
        place = op.Transpose(op.Slice(places, begin, begin + 1), perm=[1, 0])
        centres = centres + op.Unsqueeze(chosen, [1]) * place
    return centres


@script(default_opset=op)
def cluster_members(points, draws, unused, iterations):
    """Members [partitions, cells, clusters] of k-means, 0 or 1; `unused` [partitions, 1, clusters] is large
    where a partition has fewer clusters."""
    clusters = op.Slice(op.Shape(draws), [1], [2])
    two = [0.0, 1.0]
    centres = initial_centres(points, draws)
    half = 0.5 * op.ReduceSumSquare(centres, [2], keepdims=0)
    scores = op.MatMul(points, op.Transpose(centres, perm=[0, 2, 1])) - op.Unsqueeze(half, [1]) - unused
    members = op.OneHot(op.ArgMax(scores, axis=2, keepdims=0), clusters, two)
    for _ in range(iterations):
        turned = op.Transpose(members, perm=[0, 2, 1])
        counts = op.ReduceSum(turned, [2])
        centres = op.Where(counts > 0.0, op.MatMul(turned, points) / op.Max(counts, 1.0), centres)
        half = 0.5 * op.ReduceSumSquare(centres, [2], keepdims=0)
        scores = op.MatMul(points, op.Transpose(centres, perm=[0, 2, 1])) - op.Unsqueeze(half, [1]) - unused
        members = op.OneHot(op.ArgMax(scores, axis=2, keepdims=0), clusters, two)
    return members


@script(default_opset=op)
def partition_points(values, vectors, offset, used):
    """Points [views * kinds, cells, dim] of every kind of partition: eigenvectors, without the constant one,
    weighted as in `normalised_cut.commute_rows`; `used` [kinds, dim] is 1 for vectors of a kind, else 0."""
    dim = op.Slice(op.Shape(used), [1], [2])
    values = op.Slice(values, [1], dim + 1, [1])
    weights = op.Sqrt(op.Max(values / (1.0 - values + offset), 0.0))
    rows = op.Slice(vectors, [1], dim + 1, [2]) * op.Unsqueeze(weights, [1])
    points = op.Unsqueeze(rows, [1]) * op.Unsqueeze(used, [1])
    squares = op.ReduceSumSquare(points, [2, 3])
    counts = op.ReduceSum(used, [1]) * op.Cast(op.Gather(op.Shape(rows), 1), to=1)
    points = points / op.Sqrt(op.Max(squares / op.Unsqueeze(counts, [2]), 1e-24))
    return op.Reshape(points, op.Concat([-1], op.Shape(rows, start=1), axis=0))


@script(default_opset=op)
def agreements(points, draws, unused, iterations):
    """Agreement [cells, cells]: the share of partitions in which two cells share a cluster."""
    members = op.Transpose(cluster_members(points, draws, unused, iterations), perm=[1, 0, 2])
    flat = op.Reshape(members, [0, -1])
    together = op.MatMul(flat, op.Transpose(flat, perm=[1, 0]))
    return together / op.Cast(op.Gather(op.Shape(points), 0), to=1)


@script(default_opset=op)
def merges(sums, sizes, roots, parents, heights):
    """The tree of average linkage of clusters, whose cells agree by `sums` [clusters, clusters], with
    `sizes` and `roots` [clusters], one cell of each: `parents` and `heights` [cells] with those of the roots
    filled in (`linkage`)."""
    goes_on = op.Cast(op.Size(roots) > 1, to=9)
    while goes_on:
        number = op.Cast(roots + 1, to=1)
        product = op.Unsqueeze(number, [1]) * op.Unsqueeze(number, [0]) * GOLDEN
        likeness = sums / (op.Unsqueeze(sizes, [1]) * op.Unsqueeze(sizes, [0]))
        likeness = likeness + HASH * (product - op.Floor(product)) - 4.0 * op.EyeLike(sums)
        best = op.ArgMax(likeness, axis=1, keepdims=0)
        index = op.Range(0, op.Size(best), 1)
        mutual = op.Gather(best, best) == index
        ends = op.And(mutual, index > best)
        kept = op.Cast(op.And(mutual, index < best), to=1)
        shared = op.Squeeze(op.GatherElements(sums, op.Unsqueeze(best, [1]), axis=1), [1])
        distance = 1.0 - shared / (sizes * op.Gather(sizes, best))
        parents = op.ScatterElements(parents, roots, op.Where(ends, op.Gather(roots, best), roots))
        heights = op.ScatterElements(heights, roots, op.Where(ends, distance, 1e9))
        rest = op.Squeeze(op.NonZero(op.Not(ends)), [0])
        partner = op.Gather(best, rest)
        kept = op.Gather(kept, rest)
        rows = op.Gather(sums, rest, axis=0) + op.Unsqueeze(kept, [1]) * op.Gather(sums, partner, axis=0)
        sums = op.Gather(rows, rest, axis=1) + op.Unsqueeze(kept, [0]) * op.Gather(rows, partner, axis=1)
        sizes = op.Gather(sizes, rest) + kept * op.Gather(sizes, partner)
        roots = op.Gather(roots, rest)
        goes_on = op.Size(roots) > 1
    return parents, heights


@script(default_opset=op)
def linkage(agreement):
    """The tree of average linkage: for every cell, as the root of a cluster, the root that absorbs it and the
    distance of the two clusters; itself and a large number for the last."""
    roots = op.Range(0, op.Gather(op.Shape(agreement), 0), 1)
    ones = op.Cast(roots * 0 + 1, to=1)
    parents, heights = merges(agreement, ones, roots, roots, 1e9 * ones)
    return parents, heights


@script(default_opset=op)
def clustered(embedding, affinity, draws, unused, iterations):
    """The tree of clusters of k-means of `embedding` [cells, dim], merged by their mean `affinity` [cells,
    cells] (`nn.pairwise_affinity`); `draws` and `unused` as of `cluster_members`. Cells of one cluster have a
    height of -1."""
    members = op.Squeeze(cluster_members(op.Unsqueeze(embedding, [0]), draws, unused, iterations), [0])
    members = op.Compress(members, op.ReduceSum(members, [0], keepdims=0) > 0.0, axis=1)
    roots = op.ArgMax(members, axis=0, keepdims=0)
    parents = op.Gather(roots, op.ArgMax(members, axis=1, keepdims=0))
    index = op.Range(0, op.Size(parents), 1)
    heights = op.Where(parents == index, 1e9, -1.0)
    sums = op.MatMul(op.MatMul(op.Transpose(members, perm=[1, 0]), affinity), members)
    sizes = op.ReduceSum(members, [0], keepdims=0)
    parents, heights = merges(sums, sizes, roots, parents, heights)
    return parents, heights


@script(default_opset=op)
def divide(parents, heights, num_segments, distance):
    """Members [cells, segments], 0 or 1: `num_segments` segments (at most the clusters of `clustered`), or
    those of `distance` if that is 0."""
    cells = op.Shape(parents)
    index = op.Range(0, op.Squeeze(cells), 1)
    _, order = op.TopK(heights, cells, largest=0)
    ranks = op.ScatterElements(index, order, index)
    by_number = op.And(num_segments > 0, op.Or(ranks < cells - num_segments, heights < -0.5))
    is_merged = op.Or(by_number, op.And(num_segments <= 0, heights <= distance))
    roots = op.Where(is_merged, parents, index)
    for _ in range(DOUBLINGS):
        roots = op.Gather(roots, roots)
    segments = op.Squeeze(op.NonZero(roots == index), [0])
    return op.Cast(op.Unsqueeze(roots, [1]) == op.Unsqueeze(segments, [0]), to=1)


@script(default_opset=op)
def shares(agreement, members):
    """Attention [segments, cells]: mean agreement of a cell with those of a segment, sum 1 in each cell."""
    mean = op.MatMul(agreement, members) / op.ReduceSum(members, [0])
    return op.Transpose(mean / op.ReduceSum(mean, [1]), perm=[1, 0])


@script(default_opset=op)
def window_means(planes, radius):
    """Means of [planes, height, width] over windows of 2 `radius` + 1 pixels, cropped at the border."""
    _, height, width = op.Split(op.Shape(planes), num_outputs=3)
    row = op.Range(0, op.Squeeze(height), 1)
    column = op.Range(0, op.Squeeze(width), 1)
    top, bottom = op.Max(row - radius, 0), op.Min(row + radius + 1, height)
    left, right = op.Max(column - radius, 0), op.Min(column + radius + 1, width)
    sums = op.CumSum(op.Pad(planes, [0, 1, 0, 0, 0, 0]), 1)
    means = (op.Gather(sums, bottom, axis=1) - op.Gather(sums, top, axis=1)) / op.Unsqueeze(
        op.Cast(bottom - top, to=1), [1]
    )
    sums = op.CumSum(op.Pad(means, [0, 0, 1, 0, 0, 0]), 2)
    return (op.Gather(sums, right, axis=2) - op.Gather(sums, left, axis=2)) / op.Cast(right - left, to=1)


@script(default_opset=op)
def guided(guide, masks, radius, smoothness):
    """Masks [masks, height, width] filtered with `guide` [3, height, width] (`nn.guided_filter`)."""
    colour = window_means(guide, radius)
    mean = window_means(masks, radius)
    first, second, third = op.Split(guide, num_outputs=3)
    squares = op.Concat(first * guide, second * guide, third * guide, axis=0)
    one, two, three = op.Split(colour, num_outputs=3)
    products = op.Concat(one * colour, two * colour, three * colour, axis=0)
    a, b, c, _, d, e, _, _, f = op.Split(window_means(squares, radius) - products, num_outputs=9)
    a, d, f = a + smoothness, d + smoothness, f + smoothness
    # the inverse of [[a, b, c], [b, d, e], [c, e, f]] by cofactors
    aa, ab, ac = d * f - e * e, c * e - b * f, b * e - c * d
    bb, bc, cc = a * f - c * c, b * c - a * e, a * d - b * b
    volume = a * aa + b * ab + c * ac
    x = window_means(first * masks, radius) - one * mean
    y = window_means(second * masks, radius) - two * mean
    z = window_means(third * masks, radius) - three * mean
    red = (aa * x + ab * y + ac * z) / volume
    green = (ab * x + bb * y + bc * z) / volume
    blue = (ac * x + bc * y + cc * z) / volume
    offset = window_means(mean - red * one - green * two - blue * three, radius)
    red, green, blue = window_means(red, radius), window_means(green, radius), window_means(blue, radius)
    return red * first + green * second + blue * third + offset


@script(default_opset=op)
def guide_of(images, area):
    """Images [1, 3, height, width], bilinear with antialiasing, of about `area` pixels."""
    size = op.Cast(op.Slice(op.Shape(images), [2], [4]), to=1)
    scale = op.Sqrt(area / op.ReduceProd(size, keepdims=0))
    whole = op.Concat([1, 3], op.Cast(op.Max(op.Round(size * scale), 1.0), to=7), axis=0)
    return op.Resize(images, None, None, whole, mode="linear", antialias=1)


@script(default_opset=op)
def masks_at_size(attention, images, area, radius, smoothness):
    """Soft masks [segments, height, width] of the size of images [1, 3, height, width], from attention
    [segments, rows, columns] (`nn.guided_filter.masks_at_size`)."""
    guide = guide_of(images, area)
    size = op.Slice(op.Shape(guide), [2], [4])
    segments = op.Slice(op.Shape(attention), [0], [1])
    coarse = op.Unsqueeze(attention, [0])
    coarse = op.Resize(coarse, None, None, op.Concat([1], segments, size, axis=0), mode="linear")
    fine = guided(op.Squeeze(guide, [0]), op.Squeeze(coarse, [0]), radius, smoothness)
    fine = op.Unsqueeze(op.Max(fine, 0.0), [0])
    whole = op.Concat([1], segments, op.Slice(op.Shape(images), [2], [4]), axis=0)
    fine = op.Squeeze(op.Resize(fine, None, None, whole, mode="linear"), [0])
    return fine / op.ReduceSum(fine, [0])


@script(default_opset=op)
def prepared(image, area, stride):
    """Image [1, 3, height, width] in [0, 1] at a scale of the backbone's input, bicubic with antialiasing."""
    size = op.Cast(op.Slice(op.Shape(image), [2], [4]), to=1)
    scale = op.Sqrt(area / op.ReduceProd(size, keepdims=0))
    cells = op.Cast(op.Max(op.Round(size * scale / op.Cast(stride, to=1)), 1.0), to=7)
    whole = op.Concat([1, 3], cells * stride, axis=0)
    large = op.Resize(image, None, None, whole, mode="cubic", cubic_coeff_a=-0.5, antialias=1,
                      exclude_outside=1)  # fmt: skip
    return op.Clip(large, 0.0, 1.0)


@script(default_opset=op)
def embedded(features, finest):
    """Unit embeddings [1, rows, columns, dim] of features, on the grid of `finest`."""
    shape = op.Concat(
        [1], op.Slice(op.Shape(features), [3], [4]), op.Slice(op.Shape(finest), [1], [3]), axis=0
    )
    fine = op.Resize(op.Transpose(features, perm=[0, 3, 1, 2]), None, None, shape, mode="linear")
    fine = op.Transpose(fine, perm=[0, 2, 3, 1])
    return fine / op.ReduceL2(fine, [3])


@script(default_opset=op)
def grouped(
    scales, direction, constant, mixing, temperatures, reaches, tolerances, swap, order, parity, offset, used,
    draws, unused, iterations
):  # fmt: skip
    """Agreement [cells, cells] of unit embeddings [scales, rows, columns, dim], and its tree (`linkage`)."""
    weights = affinities(scales, direction, constant, mixing, temperatures, reaches, tolerances)
    values, vectors = walk_vectors(weights, swap, order, parity)
    points = partition_points(values, vectors, offset, used)
    agreement = agreements(points, draws, unused, iterations)
    parents, heights = linkage(agreement)
    return agreement, parents, heights


@script(default_opset=op)
def divided(image, embedding, agreement, parents, heights, num_segments, distance, area, radius, smoothness):
    """Members [cells, segments] (`divide`), slots [segments, dim], attention [segments, rows, columns] and
    masks [segments, height, width]."""
    members = divide(parents, heights, op.Reshape(num_segments, [1]), distance)
    grid = op.Slice(op.Shape(embedding), [0], [2])
    dim = op.Slice(op.Shape(embedding), [2], [3])
    cells = op.Reshape(embedding, op.Concat([-1], dim, axis=0))
    sums = op.MatMul(op.Transpose(members, perm=[1, 0]), cells)
    slots = sums / op.ReduceL2(sums, [1])
    attention = op.Reshape(shares(agreement, members), op.Concat([-1], grid, axis=0))
    masks = masks_at_size(attention, image, area, radius, smoothness)
    return members, slots, attention, masks
