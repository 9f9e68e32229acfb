#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <thread>

#include "api/check_internal.h"
#include "oracle/formats.h"
#include "oracle/oracle.h"

namespace hopfill::check {
namespace {

// Above this many keys only some rows are judged by value.
constexpr std::int64_t kAllRowsUpTo = 2048;

// The rule of DESIGN.md, 'Numerics', on errors divided by the standard deviation that rounding has there, so that a fault in a row of small numbers
// does not hide behind a row of large ones: RMS within 1.5 times, maximum within 2 times the same-precision reference's. Where the reference
// happens to be exact (one key dominates and its weight is 1), another correct kernel's weight is not: exp2(s c - m c) with the maximum's product
// rounded, as FlashAttention-3 computes it, is off by up to 2^-24 |m c|. Hence floors: the model's own standard deviation, and for the maximum
// what that deviation makes of n elements.
constexpr double kRmsFactor = 1.5, kMaxFactor = 2, kRmsFloor = 1;

// What the largest of n errors over sigma stays below, but for one case in a million. The error of a rounding to nearest is uniform, hence
// sub-Gaussian with its own variance (Arbel, Marchal and Nguyen, "On strict sub-Gaussianity, optimal proxy variance and symmetry for bounded random
// variables", 2020); sums of independent ones stay so, with the sum of the variances; and by the union bound the largest of n passes t sigma with
// a probability of at most 2 n exp(-t^2 / 2) (Boucheron, Lugosi and Massart, "Concentration Inequalities", 2013, sections 2.3 and 2.5). 5.4 for
// one element, 7.2 for 100,000.
double largest_of(double n) { return std::sqrt(2 * std::log(2 * n / 1e-6)); }

// Sums over judged elements of one output.
struct Tally {
    double squares = 0, reference_squares = 0, max = 0, reference_max = 0;          // of errors
    double z_squares = 0, reference_z_squares = 0, z_max = 0, reference_z_max = 0;  // of errors over sigma
    std::int64_t n = 0;
    std::string where;  // of z_max

    void add(double error, double reference_error, double sigma) {
        const double z = std::fabs(error) / sigma, reference_z = std::fabs(reference_error) / sigma;
        squares += error * error;
        reference_squares += reference_error * reference_error;
        max = std::max(max, std::fabs(error));
        reference_max = std::max(reference_max, std::fabs(reference_error));
        z_squares += z * z;
        reference_z_squares += reference_z * reference_z;
        reference_z_max = std::max(reference_z_max, reference_z);
        z_max = std::max(z_max, z);
        ++n;
    }
    void add(const Tally& t) {
        squares += t.squares;
        reference_squares += t.reference_squares;
        max = std::max(max, t.max);
        reference_max = std::max(reference_max, t.reference_max);
        z_squares += t.z_squares;
        reference_z_squares += t.reference_z_squares;
        reference_z_max = std::max(reference_z_max, t.reference_z_max);
        if (t.z_max > z_max) {
            z_max = t.z_max;
            where = t.where;
        }
        n += t.n;
    }
    [[nodiscard]] Deviation deviation() const {
        if (n == 0) return {};
        const double count = static_cast<double>(n);
        const double z_rms = std::sqrt(z_squares / count), reference_z_rms = std::sqrt(reference_z_squares / count);
        // The mean square of n elements, of which those of a row are not independent, scatters by itself.
        const double rms_limit = kRmsFactor * std::max(reference_z_rms, kRmsFloor) + 2 / std::sqrt(count);
        const double max_limit = std::max(kMaxFactor * reference_z_max, largest_of(count));
        return {std::sqrt(squares / count), max, std::sqrt(reference_squares / count), reference_max, std::max(z_rms / rms_limit, z_max / max_limit)};
    }
};

struct UnitResult {
    Tally o, lse;
    std::string fault;
    std::int64_t rows = 0;
};

bool is_poison(const std::byte* p, DType t) {
    for (std::size_t i = 0; i < static_cast<std::size_t>(size_of(t)); ++i) {
        if (p[i] != poison_of(t)[i % 2]) return false;
    }
    return true;
}

const std::byte* address(const TensorView& t, std::int64_t at) { return static_cast<const std::byte*>(t.data) + at * size_of(t.dtype); }

// Infinities and NaNs of `got` must be where `want`, rounded to the format, has them.
bool same_class(double got, double want, DType t) {
    const oracle::Format f = oracle::format_of(t);
    const double rounded = oracle::decode(f, oracle::encode_saturated(f, want));
    if (std::isnan(rounded)) return std::isnan(got);
    if (std::isinf(rounded)) return got == rounded;
    return std::isfinite(got);
}

class Unit {
public:
    Unit(const Case& c, const Built& b, std::int64_t sequence, std::int64_t head)
        : case_(c), built_(b), sequence_(sequence), head_(head), index_(static_cast<std::size_t>(sequence)) {}

    UnitResult judge() {
        // A planted NaN may reach any row, so those cases are small enough to be judged wholly.
        const std::vector<std::int64_t> rows = case_.nan != 0
                                                   ? judged_rows(built_.q_lens[index_], 0, 0)
                                                   : judged_rows(built_.q_lens[index_], built_.kv_lens[index_], case_.seed * 131 + at_unit());
        const std::vector<oracle::Row> truth = oracle::rows(built_.problem, built_.host, sequence_, head_, rows);
        const std::vector<Simulated> reference = simulate(built_, sequence_, head_, rows);
        for (std::size_t r = 0; r < rows.size(); ++r) judge_row(rows[r], truth[r], reference[r]);
        result_.rows = std::ssize(rows);
        for (std::int64_t i = 0, r = 0; i < built_.q_lens[index_]; ++i) {
            if (r < std::ssize(rows) && rows[static_cast<std::size_t>(r)] == i) {
                ++r;
            } else {
                scan_row(i);
            }
        }
        return std::move(result_);
    }

private:
    std::uint64_t at_unit() const { return static_cast<std::uint64_t>(sequence_ * built_.problem.heads + head_); }
    std::string place(std::int64_t i) const { return fmt::format("sequence {} head {} row {}", sequence_, head_, i); }
    void fault(std::string text) {
        if (result_.fault.empty()) result_.fault = std::move(text);
    }
    std::int64_t o_at(std::int64_t i) const { return offset(built_.host.o, sequence_, built_.q_begin[index_], i, head_); }
    std::int64_t lse_at(std::int64_t i) const { return lse_offset(built_.host.lse, sequence_, built_.q_begin[index_], i, head_); }

    // True and the number, unless it was never written.
    bool written(const TensorView& t, std::int64_t at, const char* name, std::int64_t i, double& x) {
        if (is_poison(address(t, at), t.dtype)) {
            fault(fmt::format("{} was not written at {}", name, place(i)));
            return false;
        }
        x = oracle::load(t.dtype, t.data, at);
        return true;
    }

    void judge_row(std::int64_t i, const oracle::Row& truth, const Simulated& reference) {
        double got = 0;
        for (std::int64_t c = 0; c < built_.problem.head_dim; ++c) {
            const auto col = static_cast<std::size_t>(c);
            if (!written(built_.host.o, o_at(i) + c, "o", i, got)) return;
            if (!same_class(got, truth.o[col], built_.problem.out_dtype)) {
                return fault(fmt::format("o is {} at {} column {}; the oracle has {:.6g}", got, place(i), c, truth.o[col]));
            }
            if (!std::isfinite(truth.o[col]) || !std::isfinite(got)) continue;
            const double want = built_.problem.out_dtype == DType::e4m3 ? std::clamp(truth.o[col], -448.0, 448.0) : truth.o[col];
            // A row with no key is exactly zero, which a tolerance must not blur.
            if (std::isinf(truth.lse) && truth.lse < 0) {
                if (got != 0) return fault(fmt::format("o is {} at {} column {}; a row with no key gives 0", got, place(i), c));
                continue;
            }
            const double before = result_.o.z_max;
            result_.o.add(got - want, reference.o[col] - want, reference.sigma[col]);
            if (result_.o.z_max > before)
                result_.o.where = fmt::format("{} column {}: o is {:.8g}, the oracle has {:.8g}", place(i), c, got, truth.o[col]);
        }
        if (!built_.host.lse.present() || !written(built_.host.lse, lse_at(i), "lse", i, got)) return;
        if (!same_class(got, truth.lse, DType::f32)) return fault(fmt::format("lse is {} at {}; the oracle has {:.8g}", got, place(i), truth.lse));
        if (!std::isfinite(truth.lse)) return;
        const double before = result_.lse.z_max;
        result_.lse.add(got - truth.lse, reference.lse - truth.lse, reference.lse_sigma);
        if (result_.lse.z_max > before) result_.lse.where = fmt::format("{}: lse is {:.9g}, the oracle has {:.9g}", place(i), got, truth.lse);
    }

    // A row that the oracle does not compute: written and finite.
    void scan_row(std::int64_t i) {
        double got = 0;
        for (std::int64_t c = 0; c < built_.problem.head_dim; ++c) {
            if (!written(built_.host.o, o_at(i) + c, "o", i, got)) return;
            if (!std::isfinite(got)) return fault(fmt::format("o is {} at {} column {}; finite inputs", got, place(i), c));
        }
        if (!built_.host.lse.present() || !written(built_.host.lse, lse_at(i), "lse", i, got)) return;
        if (std::isnan(got) || (std::isinf(got) && got > 0)) fault(fmt::format("lse is {} at {}; finite inputs", got, place(i)));
    }

    const Case& case_;
    const Built& built_;
    std::int64_t sequence_, head_;
    std::size_t index_;
    UnitResult result_;
};

// Every byte of a buffer that belongs to no row of a sequence must still be poison.
std::string overwritten(const Built& b, const Buffer& buffer, const TensorView& t, const char* name, bool is_lse) {
    std::vector<bool> owned(buffer.bytes.size());
    const std::int64_t width = is_lse ? 1 : b.problem.head_dim, bytes = size_of(t.dtype);
    for (std::size_t s = 0; s < b.q_lens.size(); ++s) {
        for (std::int64_t h = 0; h < b.problem.heads; ++h) {
            for (std::int64_t i = 0; i < b.q_lens[s]; ++i) {
                const auto sequence = static_cast<std::int64_t>(s);
                const std::int64_t at = is_lse ? lse_offset(t, sequence, b.q_begin[s], i, h) : offset(t, sequence, b.q_begin[s], i, h);
                const std::int64_t first = static_cast<std::int64_t>(buffer.base) + at * bytes;
                std::fill_n(owned.begin() + first, width * bytes, true);
            }
        }
    }
    for (std::size_t i = 0; i < owned.size(); ++i) {
        if (!owned[i] && buffer.bytes[i] != poison_of(t.dtype)[i % 2]) {
            return fmt::format("{}: byte {} from its first element was overwritten, which is no part of it", name,
                               static_cast<std::int64_t>(i) - static_cast<std::int64_t>(buffer.base));
        }
    }
    return {};
}

void append(std::string& text, const std::string& more) {
    if (!more.empty()) text += (text.empty() ? "" : "; ") + more;
}

}  // namespace

std::vector<std::int64_t> judged_rows(std::int64_t q_len, std::int64_t kv_len, std::uint64_t seed) {
    std::vector<std::int64_t> rows;
    if (kv_len <= kAllRowsUpTo || q_len <= 64) {
        for (std::int64_t i = 0; i < q_len; ++i) rows.push_back(i);
        return rows;
    }
    const std::int64_t tile = q_len / 64 * 64;
    for (std::int64_t i : {std::int64_t{0}, std::int64_t{1}, q_len - 1, q_len - 2, tile - 1, tile, std::int64_t{63}, std::int64_t{64},
                           std::int64_t{127}, std::int64_t{128}, std::int64_t{191}, std::int64_t{192}}) {
        if (i < q_len) rows.push_back(i);
    }
    Rng rng(seed, 77);
    while (rows.size() < 64) {
        std::int64_t i = rng.between(0, q_len - 1);
        if (rng.one_in(3)) i = std::min(q_len - 1, i / 64 * 64 + (rng.one_in(2) ? 63 : 0));
        rows.push_back(i);
        std::ranges::sort(rows);
        rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
    }
    std::ranges::sort(rows);
    return rows;
}

void parallel(std::int64_t n, int threads, const std::function<void(std::int64_t)>& f) {
    std::atomic<std::int64_t> next{0};
    const auto work = [&] {
        for (std::int64_t i = next++; i < n; i = next++) f(i);
    };
    const std::int64_t wanted = threads > 0 ? threads : std::max(1u, std::thread::hardware_concurrency());
    std::vector<std::thread> pool;
    for (std::int64_t t = 1; t < std::min(wanted, n); ++t) pool.emplace_back(work);
    work();
    for (std::thread& thread : pool) thread.join();
}

void judge(const Case& c, const Built& b, const RunOptions& options, Outcome& outcome) {
    const std::int64_t units = b.problem.batch * b.problem.heads;
    std::vector<UnitResult> results(static_cast<std::size_t>(units));
    parallel(units, options.threads, [&](std::int64_t unit) {
        results[static_cast<std::size_t>(unit)] = Unit(c, b, unit / b.problem.heads, unit % b.problem.heads).judge();
    });
    Tally o, lse;
    std::string text;
    for (const UnitResult& r : results) {
        o.add(r.o);
        lse.add(r.lse);
        outcome.rows_judged += r.rows;
        if (text.empty()) text = r.fault;
    }
    append(text, overwritten(b, b.o, b.host.o, "o", false));
    if (b.host.lse.present()) append(text, overwritten(b, b.lse, b.host.lse, "lse", true));
    outcome.o = o.deviation();
    outcome.lse = lse.deviation();
    for (const auto& [name, d, tally] : {std::tuple{"o", &outcome.o, &o}, std::tuple{"lse", &outcome.lse, &lse}}) {
        if (d->used <= 1) continue;
        append(text,
               fmt::format("{} errors {:.2f} times what is allowed (rms {:.3g}, max {:.3g}; same-precision reference {:.3g}, {:.3g}), worst at {}",
                           name, d->used, d->rms, d->max, d->reference_rms, d->reference_max, tally->where));
    }
    if (text.empty()) return;
    outcome.status = Outcome::Status::failed;
    outcome.text = text;
}

}  // namespace hopfill::check
