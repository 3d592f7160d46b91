// The images in flight on a CUDA device: one step of every row, images in and images out. One block computes one image;
// an image's result depends on that image alone.
//
// The code follows jboost.engine.method.step, updates and noise line by line and computes the same numbers. Compile
// with -fmad=false and without -use_fast_math: then every addition, multiplication, division and square root is rounded
// as IEEE 754 says, in numpy and here, and a host compiler gives the same bits. This costs no time, because the kernels
// wait for memory. Fast math would cost accuracy: __logf and __cosf are wrong by up to 1e-4 near their zeros, and the
// noise must agree with numpy's to 1e-6.
//
// Sums and maxima run in a fixed order (each thread over its own entries, then a binary tree), without atomics: the
// same block size gives the same bits on every device and in every batch.
//
// The file includes no header, so nvcc, NVRTC and a host compiler (with CUDA's few keywords defined) read the same
// text. Every kernel takes one struct of 64-bit fields by value; a launch passes it as that many 64-bit words.

typedef unsigned char uint8;
typedef unsigned int uint32;
typedef unsigned long long uint64;
typedef long long int64;

constexpr int MOST_THREADS = 1024;          // per block
constexpr float LARGEST = 3.402823466e+38f; // the largest finite float32
// A smaller gradient counts as zero: dividing by it would turn rounding errors into a direction.
constexpr float TINY = 1e-30f;

// The fields of jboost.engine.method.step.State, in its order: x and x0 [B, C, H, W], the others [B].
struct Rows {
  float *x, *x0;
  int64 *y, *number, *limit, *steps;
  uint8 *moving, *stopped, *failed, *waiting, *retried;
  float *class_logit, *before_logit;
  int64 *before_predicted, *index;
};

// jboost.engine.method.updates.Controls, in device memory, so a captured step works for any values.
struct Controls {
  float step_size, radius, noise, threshold;
  int64 key[2];
};

struct StepArguments {
  Rows rows;
  const float *grad, *class_logit; // the network's outputs: [B, C, H, W], [B]
  const int64 *predicted;          // [B]
  const Controls *controls;
  const uint8 *in_float32; // 1: a float32 step for the waiting rows; 0: an ordinary step for the other rows
  int64 size;              // C * H * W
};

struct AdmitArguments {
  Rows rows;
  const int64 *row, *y, *index, *limit, *number; // [n]; row: the row that each image enters
  const uint8 *images;                           // [n, H, W, C]
  int64 channels, pixels;                        // C, H * W
};

struct CollectArguments {
  Rows rows;
  const int64 *row; // [n]
  uint8 *images;    // [n, H, W, C]
  float *moved;     // [n]
  int64 channels, pixels;
  int64 ball, most; // jboost.engine.method.rounding.Limit
};

struct ToFloatArguments {
  const uint8 *images; // [n, H, W, C]
  float *x;            // [n, C, H, W]
  int64 channels, pixels;
};

// ---------------------------------------------------------------------------------------------------------- reductions

struct Add {
  __device__ float operator()(float a, float b) const { return a + b; }
};

struct Larger { // the larger of two values; NaN if either is NaN
  __device__ float operator()(float a, float b) const { return a >= b || a != a ? a : b; }
};

struct AddWhole {
  __device__ int64 operator()(int64 a, int64 b) const { return a + b; }
};

template <class Value> __device__ Value *scratch() {
  __shared__ Value values[MOST_THREADS];
  return values;
}

// Combines every thread's value; all threads get the result. Every thread of the block must call it.
template <class Value, class Combine> __device__ Value reduce(Value mine, Combine combine) {
  Value *value = scratch<Value>();
  __syncthreads(); // every thread has read the last call's result
  value[threadIdx.x] = mine;
  __syncthreads();
  for (uint32 left = blockDim.x; left > 1;) {
    const uint32 half = (left + 1) / 2;
    if (threadIdx.x + half < left) value[threadIdx.x] = combine(value[threadIdx.x], value[threadIdx.x + half]);
    left = half;
    __syncthreads();
  }
  return value[0];
}

// Euclidean norm of entry(0), ..., entry(size - 1), whose largest magnitude is `top`. Scaling by `top` keeps the
// squares from overflow and underflow.
template <class Entry> __device__ float l2_norm(float top, int size, Entry entry) {
  const float scale = top > TINY ? top : 1.0f;
  float sum = 0.0f;
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    const float v = entry(i) / scale;
    sum += v * v;
  }
  return scale * sqrtf(reduce(sum, Add()));
}

__device__ float clip(float v) { return fminf(fmaxf(v, 0.0f), 1.0f); }

__device__ float sign(float v) { return (v > 0.0f) - (v < 0.0f); }

// --------------------------------------------------------------------------------------------------------------- noise

// Philox 4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011), in place.
__device__ void philox(uint32 c[4], uint32 k0, uint32 k1) {
  for (int round = 0; round < 10; round++) {
    const uint64 a = 0xD2511F53ull * c[0], b = 0xCD9E8D57ull * c[2];
    const uint32 c1 = c[1], c3 = c[3];
    c[0] = (uint32)(b >> 32) ^ c1 ^ k0;
    c[1] = (uint32)b;
    c[2] = (uint32)(a >> 32) ^ c3 ^ k1;
    c[3] = (uint32)a;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

// Two standard normals from two words. The upper 24 bits of each word are used, which float32 holds exactly.
__device__ void box_muller(uint32 a, uint32 b, float *out) {
  const float u = (float)((a >> 8) + 1) * 5.9604644775390625e-8f; // * 2^-24: (0, 1], so the logarithm is finite
  const float v = (float)(b >> 8) * 5.9604644775390625e-8f;       // [0, 1)
  const float radius = sqrtf(-2.0f * logf(u)), angle = 6.283185307179586f * v;
  out[0] = radius * cosf(angle);
  out[1] = radius * sinf(angle);
}

// Entries 4 * block to 4 * block + 3 of an image's noise at one step.
__device__ void normals(const int64 *key, int64 number, int64 step, uint32 block, float out[4]) {
  uint32 c[4] = {block, (uint32)step, (uint32)number, (uint32)(number >> 32)};
  philox(c, (uint32)key[0], (uint32)key[1]);
  box_muller(c[0], c[1], out);
  box_muller(c[2], c[3], out + 2);
}

// --------------------------------------------------------------------------------------------------------------- moves

// One row. Each thread reads and writes only its own entries of x during a move, so moves need no barrier of their own.
struct Image {
  float *x;
  const float *x0, *grad;
  int size;
  float top; // the gradient's largest magnitude, finite
  int64 number, step;
};

struct DescendL2 { // algorithm 1
  __device__ void operator()(const Image &image, const Controls &how) const {
    float *x = image.x;
    const float *x0 = image.x0, *grad = image.grad;
    const float norm = l2_norm(image.top, image.size, [=](int i) { return grad[i]; });
    const float length = norm > TINY ? norm : 1.0f;
    float top = 0.0f;
    for (int i = threadIdx.x; i < image.size; i += blockDim.x) {
      x[i] = clip(x[i] - how.step_size * (grad[i] / length));
      top = Larger()(top, fabsf(x[i] - x0[i]));
    }
    if (!(how.radius <= LARGEST)) return; // no ball; every thread takes the same branch
    top = reduce(top, Larger());
    const float distance = l2_norm(top, image.size, [=](int i) { return x[i] - x0[i]; });
    if (!(distance > how.radius)) return;
    // x0 and x lie in the cube, so every point between them does too: projecting last breaks neither constraint.
    const float shrink = how.radius / distance;
    for (int i = threadIdx.x; i < image.size; i += blockDim.x) x[i] = x0[i] + (x[i] - x0[i]) * shrink;
  }
};

struct DescendLinf { // the same with the sign of the gradient, and a cube as the ball
  __device__ void operator()(const Image &image, const Controls &how) const {
    for (int i = threadIdx.x; i < image.size; i += blockDim.x) {
      const float x = clip(image.x[i] - how.step_size * sign(image.grad[i])), moved = x - image.x0[i];
      image.x[i] = fabsf(moved) > how.radius ? image.x0[i] + sign(moved) * how.radius : x;
    }
  }
};

struct Langevin { // algorithm 3
  __device__ void operator()(const Image &image, const Controls &how) const {
    for (int block = threadIdx.x; 4 * block < image.size; block += blockDim.x) {
      float noise[4];
      normals(how.key, image.number, image.step, block, noise);
      for (int i = 4 * block; i < image.size && i < 4 * block + 4; i++)
        image.x[i] = image.x[i] - how.step_size * image.grad[i] + how.noise * noise[i - 4 * block];
    }
  }
};

// ---------------------------------------------------------------------------------------------------------------- step

// softplus, see jboost.engine.method.objectives; NaN stays NaN.
__device__ float realness(float z) { return (z > 0.0f ? z : 0.0f) + log1pf(expf(-fabsf(z))); }

// jboost.engine.method.step.advance for the row of this block.
template <class Move> __device__ void advance(const StepArguments &s, Move move) {
  const Rows &rows = s.rows;
  const int row = blockIdx.x, size = (int)s.size;
  const bool in_float32 = *s.in_float32;
  if (!rows.moving[row] || (rows.waiting[row] != 0) != in_float32) return; // every thread takes the same branch

  // Every thread reads here, before the barriers of the first reduction, what thread 0 changes below.
  const Controls how = *s.controls;
  const int64 steps = rows.steps[row], number = rows.number[row];
  const float class_logit = s.class_logit[row], *grad = s.grad + (int64)row * size;

  float top = 0.0f;
  for (int i = threadIdx.x; i < size; i += blockDim.x) top = Larger()(top, fabsf(grad[i]));
  top = reduce(top, Larger());
  // The logit as well: some runtimes turn a NaN inside the network into zeros of the gradient. False for NaN too.
  const bool finite = top <= LARGEST && fabsf(class_logit) <= LARGEST;
  const bool wait = !finite && !in_float32;
  // Unused while the row waits. An infinite threshold never stops an image, and neither does an infinite class logit.
  const bool stopped =
      how.threshold <= LARGEST && fabsf(class_logit) <= LARGEST && realness(class_logit) >= how.threshold;
  const bool go = finite && !stopped;

  if (threadIdx.x == 0) {
    rows.waiting[row] = wait;
    if (wait) {
      rows.retried[row] = 1;
    } else {
      if (steps == 0) {
        rows.before_logit[row] = class_logit;
        rows.before_predicted[row] = s.predicted[row];
      }
      rows.class_logit[row] = class_logit;
      rows.steps[row] = steps + go;
      rows.moving[row] = go && steps + 1 < rows.limit[row];
      if (stopped) rows.stopped[row] = 1;
      if (!finite && !stopped) rows.failed[row] = 1;
    }
  }
  if (!go) return;
  const int64 first = (int64)row * size;
  move(Image{rows.x + first, rows.x0 + first, grad, size, top, number, steps}, how);
}

extern "C" __global__ void jboost_step_pgd_l2(StepArguments s) { advance(s, DescendL2()); }

extern "C" __global__ void jboost_step_pgd_linf(StepArguments s) { advance(s, DescendLinf()); }

extern "C" __global__ void jboost_step_sgld(StepArguments s) { advance(s, Langevin()); }

// -------------------------------------------------------------------------------------------------- images in and out

// The position in [n, H, W, C] of entry i of image `image` in [n, C, H, W].
__device__ int64 channels_last(int64 image, int i, int64 channels, int64 pixels) {
  return (image * pixels + i % pixels) * channels + i / pixels;
}

// Puts image n into row[n] and resets all fields of that row.
extern "C" __global__ void jboost_admit(AdmitArguments a) {
  const int64 n = blockIdx.x, row = a.row[n];
  const int size = (int)(a.channels * a.pixels);
  float *x = a.rows.x + row * size, *x0 = a.rows.x0 + row * size;
  for (int i = threadIdx.x; i < size; i += blockDim.x)
    x[i] = x0[i] = a.images[channels_last(n, i, a.channels, a.pixels)] / 255.0f;
  if (threadIdx.x != 0) return;
  a.rows.y[row] = a.y[n];
  a.rows.index[row] = a.index[n];
  a.rows.number[row] = a.number[n];
  a.rows.limit[row] = a.limit[n];
  a.rows.steps[row] = 0;
  a.rows.moving[row] = a.limit[n] > 0;
  a.rows.stopped[row] = a.rows.failed[row] = a.rows.waiting[row] = a.rows.retried[row] = 0;
  a.rows.class_logit[row] = 0.0f;
  a.rows.before_logit[row] = nanf("");
  a.rows.before_predicted[row] = 0;
}

// jboost.engine.method.rounding.round_within for one image; `parts` is that of its _shortened, 0 for round to nearest.
constexpr int64 L2_BALL = 1, LINF_BALL = 2, CUT = 3;

struct Levels {
  const float *x, *x0;
  int64 ball, most;
  int parts;
  __device__ float start(int i) const { return rintf(x0[i] * 255.0f); } // half to even, as numpy rounds
  __device__ float operator()(int i) const {
    const float scaled = clip(x[i]) * 255.0f, nearest = rintf(scaled);
    if (ball == CUT) return x[i] == x0[i] ? start(i) : floorf(scaled);
    if (ball == LINF_BALL) return fminf(fmaxf(nearest, start(i) - (float)most), start(i) + (float)most);
    if (parts == 0) return nearest;
    const float moved = scaled - start(i);
    return start(i) + sign(moved) * floorf(fmaxf(fabsf(moved) + (0.5f - parts / 512.0f), 0.0f));
  }
};

// Whether the levels lie in the L2 ball. Every thread of the block must call it, and gets the same answer.
__device__ bool inside(const Levels &level, int size) {
  int64 sum = 0;
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    const int64 moved = (int64)(level(i) - level.start(i));
    sum += moved * moved;
  }
  return reduce(sum, AddWhole()) <= level.most;
}

// Writes row[n], rounded to levels, to image n, and its L2 distance from the input to moved[n]. A row that never moved
// or that failed gives its input.
extern "C" __global__ void jboost_collect(CollectArguments a) {
  const int64 n = blockIdx.x, row = a.row[n];
  const int size = (int)(a.channels * a.pixels);
  const float *x0 = a.rows.x0 + row * size;
  const float *x = a.rows.failed[row] || a.rows.steps[row] == 0 ? x0 : a.rows.x + row * size;
  Levels level = {x, x0, a.ball, a.most, 0};
  if (a.ball == L2_BALL && !inside(level, size)) {
    int low = 0, high = 512; // low does not fit
    for (int i = 0; i < 9; i++) {
      level.parts = (low + high) / 2;
      (inside(level, size) ? high : low) = level.parts;
    }
    level.parts = high;
  }
  const auto moved = [=](int i) { return level(i) / 255.0f - x0[i]; };
  float top = 0.0f;
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    a.images[channels_last(n, i, a.channels, a.pixels)] = (uint8)level(i);
    top = Larger()(top, fabsf(moved(i)));
  }
  const float distance = l2_norm(reduce(top, Larger()), size, moved);
  if (threadIdx.x == 0) a.moved[n] = distance;
}

// uint8 [n, H, W, C] to float32 [n, C, H, W] in [0, 1].
extern "C" __global__ void jboost_to_float(ToFloatArguments a) {
  const int size = (int)(a.channels * a.pixels);
  float *x = a.x + (int64)blockIdx.x * size;
  for (int i = threadIdx.x; i < size; i += blockDim.x)
    x[i] = a.images[channels_last(blockIdx.x, i, a.channels, a.pixels)] / 255.0f;
}
