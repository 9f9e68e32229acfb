// The checker must catch what it is for: each test plants one fault in a right answer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#include "hopfill/check.h"
#include "oracle/formats.h"
#include "oracle/oracle.h"

namespace hopfill::check {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using Status = Outcome::Status;

using Fault = std::function<void(const AttentionProblem&, const AttentionTensors&, std::uint64_t schedule)>;

// Right answers, then a fault.
class FaultyTarget : public Target {
public:
    explicit FaultyTarget(Fault fault = {}, Backend judged_as = Backend::cpu) : Target(judged_as), fault_(std::move(fault)) {}
    Result<void> run(const AttentionProblem& p, const AttentionTensors& t, const AttentionOptions&, std::uint64_t schedule) override {
        if (auto r = oracle::attention(p, t); !r) return r;
        if (fault_) fault_(p, t, schedule);
        return {};
    }

private:
    Fault fault_;
};

Outcome run_text(const char* text, Fault fault, int schedules = 1, Backend judged_as = Backend::cpu) {
    const Result<Case> c = parse_case(text);
    EXPECT_TRUE(c.ok()) << text;
    FaultyTarget target(std::move(fault), judged_as);
    RunOptions options;
    options.schedules = schedules;
    return run_case(*c, target, options);
}

std::byte* element(const TensorView& t, std::int64_t at) { return static_cast<std::byte*>(t.data) + at * size_of(t.dtype); }
double get(const TensorView& t, std::int64_t at) { return oracle::load(t.dtype, t.data, at); }
void set(const TensorView& t, std::int64_t at, double x) { oracle::store(t.dtype, t.data, at, x); }

std::int64_t at(const TensorView& t, std::int64_t batch, std::int64_t row, std::int64_t head, std::int64_t column) {
    return batch * t.strides[0] + row * t.strides[1] + head * t.strides[2] + column * t.strides[3];
}

constexpr const char* kDense = "bf16 d64 h4/2 causal q=2x70 kv=2x200 input=gaussian lse layout=12 seed=5";
constexpr const char* kPacked = "f16 d64 h4/2 packed q=40,0,33 kv=90,12,33 tail=7 input=gaussian lse seed=6";

TEST(CheckFaults, NoneInARightAnswer) {
    for (const char* text : {kDense, kPacked}) {
        const Outcome outcome = run_text(text, {}, 3);
        EXPECT_EQ(outcome.status, Status::passed) << outcome.text;
        EXPECT_LT(outcome.o.used, 0.7);
        EXPECT_GT(outcome.o.rms, 0);
        EXPECT_GT(outcome.o.reference_rms, 0);
        EXPECT_GT(outcome.rows_judged, 200);
    }
}

TEST(CheckFaults, OneWrongElement) {
    // A tenth of an element of the row with the most keys, whose numbers are the smallest.
    const Outcome outcome = run_text(kDense, [](const AttentionProblem&, const AttentionTensors& t, std::uint64_t) {
        double size = 0;
        for (std::int64_t c = 0; c < 64; ++c) size = std::max(size, std::fabs(get(t.o, at(t.o, 1, 69, 3, c))));
        set(t.o, at(t.o, 1, 69, 3, 17), get(t.o, at(t.o, 1, 69, 3, 17)) + 0.1 * size);
    });
    EXPECT_EQ(outcome.status, Status::failed);
    EXPECT_THAT(outcome.text, HasSubstr("sequence 1 head 3 row 69 column 17"));
}

TEST(CheckFaults, Nan) {
    const Outcome outcome =
        run_text(kDense, [](const AttentionProblem&, const AttentionTensors& t, std::uint64_t) { set(t.o, at(t.o, 0, 3, 1, 5), NAN); });
    EXPECT_THAT(outcome.text, HasSubstr("o is nan at sequence 0 head 1 row 3 column 5"));
}

TEST(CheckFaults, Infinity) {
    const Outcome outcome =
        run_text(kDense, [](const AttentionProblem&, const AttentionTensors& t, std::uint64_t) { set(t.o, at(t.o, 0, 3, 1, 5), INFINITY); });
    EXPECT_THAT(outcome.text, HasSubstr("o is inf"));
}

TEST(CheckFaults, UnwrittenRow) {
    const auto unwrite = [](const AttentionProblem&, const AttentionTensors& t, std::uint64_t) {
        for (std::int64_t c = 0; c < 64; ++c) {
            element(t.o, at(t.o, 1, 64, 2, c))[0] = std::byte{0xa5};
            element(t.o, at(t.o, 1, 64, 2, c))[1] = std::byte{0xff};
        }
    };
    EXPECT_THAT(run_text(kDense, unwrite).text, HasSubstr("o was not written at sequence 1 head 2 row 64"));
    // Where a NaN is right, an unwritten element still is not.
    EXPECT_THAT(run_text("bf16 d64 h4/4 packed q=70,65 kv=70,65 input=gaussian nan=2 seed=5",
                         [](const AttentionProblem&, const AttentionTensors& t, std::uint64_t) {
                             std::memset(t.o.data, 0xff, 135 * 4 * 64 * 2);
                             for (std::int64_t i = 0; i < 135 * 4 * 64; ++i) element(t.o, i)[0] = std::byte{0xa5};
                         })
                    .text,
                HasSubstr("o was not written"));
}

TEST(CheckFaults, NothingWritten) {
    class Idle : public Target {
    public:
        Idle() : Target(Backend::cpu) {}
        Result<void> run(const AttentionProblem&, const AttentionTensors&, const AttentionOptions&, std::uint64_t) override { return {}; }
    } idle;
    EXPECT_THAT(run_case(*parse_case(kPacked), idle).text, HasSubstr("o was not written"));
}

TEST(CheckFaults, Zeros) {
    for (const std::int64_t row : {0, 69}) {
        const Outcome outcome = run_text(kDense, [row](const AttentionProblem&, const AttentionTensors& t, std::uint64_t) {
            for (std::int64_t c = 0; c < 64; ++c) set(t.o, at(t.o, 0, row, 0, c), 0);
        });
        EXPECT_THAT(outcome.text, HasSubstr("times what is allowed"));
    }
}

TEST(CheckFaults, SwappedHeads) {
    const Outcome outcome = run_text(kDense, [](const AttentionProblem&, const AttentionTensors& t, std::uint64_t) {
        for (std::int64_t i = 0; i < 70; ++i) {
            for (std::int64_t c = 0; c < 64; ++c) {
                const double a = get(t.o, at(t.o, 0, i, 0, c)), b = get(t.o, at(t.o, 0, i, 1, c));
                set(t.o, at(t.o, 0, i, 0, c), b);
                set(t.o, at(t.o, 0, i, 1, c), a);
            }
        }
    });
    EXPECT_GT(outcome.o.used, 10);
}

TEST(CheckFaults, OneKeyTooMany) {
    // The causal diagonal off by one: what the row below sees.
    const Outcome outcome =
        run_text("bf16 d64 h1/1 causal q=60 kv=2000 input=gaussian seed=5", [](const AttentionProblem& p, const AttentionTensors& t, std::uint64_t) {
            AttentionProblem next = p;
            AttentionTensors u = t;
            next.max_seqlen_q = 59;  // row i of 59 is aligned as row i + 1 of 60
            u.q.shape[1] = u.o.shape[1] = 59;
            (void)oracle::attention(next, u).ok();
        });
    EXPECT_EQ(outcome.status, Status::failed);
}

TEST(CheckFaults, BytesOutsideTheTensor) {
    for (const std::int64_t offset : {-1, -8, -200}) {
        const Outcome outcome = run_text(kDense, [offset](const AttentionProblem&, const AttentionTensors& t, std::uint64_t) {
            static_cast<std::byte*>(t.o.data)[offset] = std::byte{0};
        });
        EXPECT_THAT(outcome.text, AllOf(HasSubstr("o: byte"), HasSubstr("overwritten")));
    }
    EXPECT_THAT(run_text(kPacked, [](const AttentionProblem&, const AttentionTensors& t, std::uint64_t) { set(t.o, 73 * 4 * 64, 1); }).text,
                HasSubstr("o: byte 37376"));  // the first token beyond the last sequence
    EXPECT_THAT(run_text(kPacked, [](const AttentionProblem&, const AttentionTensors& t, std::uint64_t) { set(t.o, 80 * 4 * 64, 1); }).text,
                HasSubstr("o: byte 40960"));  // past the end
    EXPECT_THAT(run_text(kPacked, [](const AttentionProblem&, const AttentionTensors& t, std::uint64_t) { set(t.lse, 79, 1); }).text,
                HasSubstr("lse: byte 316"));
}

TEST(CheckFaults, GapsBetweenRows) {
    // Layouts are drawn from the seed: take one whose heads do not touch.
    for (int layout = 1; layout < 50; ++layout) {
        bool gap = false;
        const std::string text = "f16 d64 h4/2 q=9 kv=20 input=gaussian layout=" + std::to_string(layout) + " seed=5";
        const Outcome outcome = run_text(text.c_str(), [&gap](const AttentionProblem&, const AttentionTensors& t, std::uint64_t) {
            gap = std::min(t.o.strides[1], t.o.strides[2]) > 64;
            if (gap) set(t.o, 64, 0.5);
        });
        EXPECT_EQ(outcome.status, gap ? Status::failed : Status::passed) << layout << outcome.text;
    }
}

TEST(CheckFaults, Lse) {
    const auto fault = [](double x) {
        return [x](const AttentionProblem&, const AttentionTensors& t, std::uint64_t) { set(t.lse, 3, get(t.lse, 3) + x); };
    };
    EXPECT_EQ(run_text(kDense, fault(0)).status, Status::passed);
    EXPECT_THAT(run_text(kDense, fault(1e-4)).text, HasSubstr("lse errors"));
    EXPECT_THAT(run_text(kDense, fault(INFINITY)).text, HasSubstr("lse is inf"));
    const auto base_two = [](const AttentionProblem&, const AttentionTensors& t, std::uint64_t) {
        for (std::int64_t i = 0; i < t.lse.elements(); ++i) set(t.lse, i, get(t.lse, i) * 1.4426950408889634);
    };
    EXPECT_THAT(run_text(kDense, base_two).text, HasSubstr("lse errors"));
}

// What is allowed for weights below 1e-9 and for the logarithm of FP8's sums is no more than that.
TEST(CheckFaults, TinyOutputsAndFp8Lse) {
    const char* tiny = "bf16 d64 h12/3 kv_dtype=e4m3 q=3x255 kv=3x255 scale=0.02 input=large layout=11788311 seed=361713449";
    const auto with = [&](double x) {
        return run_text(tiny, [=](const AttentionProblem&, const AttentionTensors& t, std::uint64_t) { set(t.o, at(t.o, 1, 62, 11, 9), x); });
    };
    EXPECT_EQ(with(0).status, Status::passed) << "instead of -9.6e-40";
    EXPECT_EQ(with(1e-5).status, Status::failed);
    const auto shifted = [](double by, Backend judged_as) {
        const auto shift = [=](const AttentionProblem&, const AttentionTensors& t, std::uint64_t) {
            for (std::int64_t i = 0; i < t.lse.elements(); ++i) set(t.lse, i, get(t.lse, i) + by);
        };
        return run_text("e4m3 d128 h1/1 q=3x582 kv=3x582 ks=block vs=block block=64 scale=0 lse seed=2", shift, 1, judged_as).status;
    };
    EXPECT_EQ(shifted(1.07e-6, Backend::emulated), Status::passed) << "as an H200";
    EXPECT_EQ(shifted(4e-6, Backend::emulated), Status::failed);
    EXPECT_EQ(shifted(4e-6, Backend::cpu), Status::failed);
}

TEST(CheckFaults, RowsWithoutKeys) {
    constexpr const char* text = "bf16 d64 h2/2 causal q=20 kv=5 input=gaussian lse seed=5";
    EXPECT_EQ(run_text(text, {}).status, Status::passed);
    EXPECT_THAT(run_text(text, [](const AttentionProblem&, const AttentionTensors& t, std::uint64_t) { set(t.o, 3, 1e-30); }).text,
                HasSubstr("a row with no key gives 0"));
    EXPECT_THAT(run_text(text, [](const AttentionProblem&, const AttentionTensors& t, std::uint64_t) { set(t.lse, 3, -1e30); }).text,
                HasSubstr("lse is"));
}

TEST(CheckFaults, PoorArithmetic) {
    // P and the sums right, but the logits' scale off by one part in 300, as if it had been kept in bf16.
    const Outcome outcome =
        run_text("bf16 d128 h2/2 q=200 kv=200 input=peaky seed=5", [](const AttentionProblem& p, const AttentionTensors& t, std::uint64_t) {
            AttentionProblem off = p;
            off.scale *= 1 + 1.0 / 300;
            AttentionTensors o = t;
            (void)oracle::attention(off, o).ok();
            for (std::int64_t i = 0; i < t.o.elements(); ++i) set(t.o, i, get(t.o, i) * (1 + 1.0 / 64));
        });
    EXPECT_EQ(outcome.status, Status::failed);
}

TEST(CheckFaults, InputOverwritten) {
    const Outcome outcome = run_text(kPacked, [](const AttentionProblem&, const AttentionTensors& t, std::uint64_t) { set(t.k, -1, 0); });
    EXPECT_THAT(outcome.text, HasSubstr("k: an input was overwritten"));
}

TEST(CheckFaults, BitsThatChangeWithTheSchedule) {
    const auto fault = [](const AttentionProblem&, const AttentionTensors& t, std::uint64_t schedule) {
        if (schedule % 4 == 0) element(t.o, 0)[0] ^= std::byte{1};
    };
    EXPECT_THAT(run_text(kPacked, fault, 4).text, HasSubstr("other bits"));
}

TEST(CheckFaults, ErrorsFailAndOnlyBackendsThatRefuseMaySkip) {
    class Refuses : public Target {
    public:
        using Target::Target;
        Result<void> run(const AttentionProblem&, const AttentionTensors&, const AttentionOptions&, std::uint64_t) override {
            return Error{Code::unsupported, "head_dim", "no"};
        }
    };
    Refuses cpu(Backend::cpu), emulated(Backend::emulated), sm90(Backend::sm90);
    EXPECT_EQ(run_case(*parse_case(kPacked), cpu).status, Status::failed);
    EXPECT_EQ(run_case(*parse_case(kPacked), cpu).text, "head_dim: no");
    EXPECT_EQ(run_case(*parse_case(kPacked), emulated).status, Status::skipped);
    EXPECT_EQ(run_case(*parse_case(kPacked), sm90).status, Status::skipped);
}

TEST(CheckFaults, RowsThatAreNotJudgedAreScanned) {
    constexpr const char* text = "bf16 d64 h1/1 q=500 kv=2500 input=gaussian lse seed=5";
    EXPECT_EQ(run_text(text, {}).rows_judged, 64);
    int caught = 0;
    for (std::int64_t row = 300; row < 310; ++row) {
        caught += run_text(text, [row](const AttentionProblem&, const AttentionTensors& t, std::uint64_t) { set(t.o, row * 64 + 63, NAN); }).status ==
                  Status::failed;
    }
    EXPECT_EQ(caught, 10);
}

TEST(CheckRun, FailuresSayHowToRepeatThem) {
    FaultyTarget target([](const AttentionProblem&, const AttentionTensors& t, std::uint64_t) {
        if (t.o.elements() > 0) set(t.o, 0, NAN);
    });
    Options options;
    options.seed = 4;
    options.first = 6;
    options.cases = 3;
    options.features = "causal,gqa";
    std::vector<std::int64_t> seen;
    const Result<Summary> summary = run(options, target, [&](std::int64_t index, const Case&, const Outcome&) { seen.push_back(index); });
    ASSERT_TRUE(summary.ok());
    EXPECT_EQ(summary->failed, 3);
    EXPECT_THAT(seen, testing::ElementsAre(6, 7, 8));
    ASSERT_EQ(summary->failures.size(), 3u);
    EXPECT_THAT(summary->failures[1], HasSubstr("hopfill check --backend cpu --seed 4 --first 7 --cases 1 --features causal,gqa"));

    Options again = options;
    again.first = 7;
    again.cases = 1;
    EXPECT_THAT(run(again, target)->failures, testing::ElementsAre(testing::StrEq(summary->failures[1])));
    options.features = "causal,wings";
    EXPECT_THAT(run(options, target).error().text(), HasSubstr("'wings'"));
}

TEST(CheckRun, RightAnswersPass) {
    FaultyTarget target;
    Options options;
    options.cases = 60;
    const Result<Summary> summary = run(options, target);
    EXPECT_THAT(summary->failures, IsEmpty());
    EXPECT_EQ(summary->passed, 60);
    EXPECT_LT(summary->worst_o, 0.8);
}

}  // namespace
}  // namespace hopfill::check
